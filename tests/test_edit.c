/* Edited heads: what was asked changes, everything else stays, also through a crash. */
#include "tests/files.h"

#include "convert/edit.h"
#include "convert/sum.h"

static const char *in(const char *name)
{
    return path_in(dir, name);
}

static void make(const char *name, const char *format)
{
    struct lm_request r = {.to = lm_format_find(format), .dtype = -1, .bare = strcmp(format, "safetensors") == 0};
    struct lm_run_options o = {.force = true};
    struct lm_model *m;
    struct lm_plan *p = NULL;
    struct lm_err e = {0};

    if (lm_model_open(&m, "tests/fixtures/models/tiny-llama", &e) || lm_plan_make(&p, m, &r, &e) ||
        lm_plan_run(p, in(name), &o, &e))
        fail_msg("%s", e.text);
    lm_plan_free(p);
    lm_model_close(m);
}

static struct lm_edit set(const char *key, int type, const char *text)
{
    return (struct lm_edit){.what = LM_EDIT_SET, .key = key, .type = type, .text = lm_span_str(text)};
}
static struct lm_edit delete(const char *key)
{
    return (struct lm_edit){.what = LM_EDIT_DELETE, .key = key};
}
static struct lm_edit name(const char *key, const char *to)
{
    return (struct lm_edit){.what = LM_EDIT_RENAME, .key = key, .to = to};
}

static bool edit_n(const char *file, const struct lm_edit *x, size_t n)
{
    struct lm_edit_result r;
    struct lm_err e = {0};

    if (lm_edit(&r, in(file), x, n, &(struct lm_edit_options){0}, &e))
        fail_msg("%s", e.text);
    return r.in_place;
}

static bool edit(const char *file, struct lm_edit x)
{
    return edit_n(file, &x, 1);
}

static void edit_fails(const char *file, struct lm_edit x, const char *why)
{
    struct lm_edit_result r;
    struct lm_err e = {0};

    if (lm_edit(&r, in(file), &x, 1, &(struct lm_edit_options){0}, &e) == 0)
        fail_msg("should fail: %s", why);
    if (!strstr(e.text, why))
        fail_msg("expected '%s', got '%s'", why, e.text);
}

/* Of all tensors' bytes in the order of the file, and of their shapes. */
static uint64_t data_sum(const char *file)
{
    struct lm_model *m = open_ok(in(file));
    struct lmc_sum s;

    lmc_sum_begin(&s);
    for (size_t i = 0; i < lm_model_n_tensors(m); i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        lmc_sum_add(&s, t->shape, t->n_dims * sizeof t->shape[0]);
        lmc_sum_add(&s, t->data, t->n_bytes);
    }
    lm_model_close(m);
    return lmc_sum_end(&s);
}

static void expect_str(const char *file, const char *key, const char *text)
{
    struct lm_model *m = open_ok(in(file));
    const struct lm_meta_value *v = lm_meta_get(lm_model_meta(m), key);

    if (!text)
        assert_null(v);
    else {
        assert_non_null(v);
        assert_int_equal(v->type, LM_META_STR);
        assert_true(lm_span_eq(v->str, lm_span_str(text)));
    }
    lm_model_close(m);
}

static void expect_u64(const char *file, const char *key, enum lm_meta_type type, uint64_t want)
{
    struct lm_model *m = open_ok(in(file));
    const struct lm_meta_value *v = lm_meta_get(lm_model_meta(m), key);

    assert_non_null(v);
    assert_int_equal(v->type, type);
    assert_true(v->u == want);
    lm_model_close(m);
}

static uint64_t size_of(const char *file)
{
    struct stat s;

    assert_int_equal(stat(in(file), &s), 0);
    return (uint64_t)s.st_size;
}

static void test_gguf(void **state)
{
    char *longer = calloc(1, 20001);
    uint64_t sum, size;

    (void)state;
    make("a.gguf", "gguf");
    sum = data_sum("a.gguf");
    edit("a.gguf", set("general.name", -1, "another name that is longer than the one before by quite a bit"));
    expect_str("a.gguf", "general.name", "another name that is longer than the one before by quite a bit");
    assert_true(data_sum("a.gguf") == sum);
    size = size_of("a.gguf");
    assert_true(edit("a.gguf", set("general.name", -1, "short")));
    assert_true(edit("a.gguf", set("general.extra", LM_META_U32, "7")));
    assert_true(edit("a.gguf", set("general.flag", LM_META_BOOL, "true")));
    assert_true(edit("a.gguf", set("general.small", LM_META_I8, "-128")));
    assert_true(edit("a.gguf", delete("general.flag")));
    assert_true(edit("a.gguf", name("general.extra", "general.other")));
    assert_true(size_of("a.gguf") == size);
    expect_u64("a.gguf", "general.other", LM_META_U32, 7);
    expect_str("a.gguf", "general.flag", NULL);
    assert_true(edit("a.gguf", set("general.other", -1, "8"))); /* keeps its type */
    expect_u64("a.gguf", "general.other", LM_META_U32, 8);
    memset(longer, 'x', 20000);
    assert_false(edit("a.gguf", set("general.description", -1, longer)));
    expect_str("a.gguf", "general.description", longer);
    assert_true(edit("a.gguf", delete("general.description")));
    assert_true(data_sum("a.gguf") == sum);
    free(longer);
}

static void test_gguf_tensor_names(void **state)
{
    struct lm_model *m;
    uint64_t sum;

    (void)state;
    make("a.gguf", "gguf");
    sum = data_sum("a.gguf");
    edit("a.gguf", name("output_norm.weight", "a_norm.weight"));
    m = open_ok(in("a.gguf"));
    assert_null(lm_model_find(m, "output_norm.weight"));
    assert_non_null(lm_model_find(m, "a_norm.weight"));
    lm_model_close(m);
    assert_true(data_sum("a.gguf") == sum);
    edit_fails("a.gguf", name("a_norm.weight", "token_embd.weight"), "exists already");
    edit_fails("a.gguf", name("nothing", "something"), "there is no");
    edit_fails("a.gguf", name("a_norm.weight", "0123456789012345678901234567890123456789012345678901234567890123"), "63");
    assert_true(data_sum("a.gguf") == sum);
}

static void test_safetensors(void **state)
{
    struct lm_model *m;
    uint64_t sum, size;

    (void)state;
    make("a.safetensors", "safetensors");
    sum = data_sum("a.safetensors");
    assert_false(edit("a.safetensors", set("note", -1, "a text that was not there before")));
    expect_str("a.safetensors", "note", "a text that was not there before");
    size = size_of("a.safetensors");
    assert_true(edit("a.safetensors", set("note", -1, "\"quoted\"\n")));
    expect_str("a.safetensors", "note", "\"quoted\"\n");
    assert_true(edit("a.safetensors", name("note", "remark")));
    assert_true(edit("a.safetensors", name("model.norm.weight", "norm")));
    assert_true(edit("a.safetensors", delete("remark")));
    expect_str("a.safetensors", "remark", NULL);
    assert_true(size_of("a.safetensors") == size);
    m = open_ok(in("a.safetensors"));
    assert_non_null(lm_model_find(m, "norm"));
    lm_model_close(m);
    assert_true(data_sum("a.safetensors") == sum);
    edit_fails("a.safetensors", set("n", LM_META_U32, "3"), "are texts");
    edit_fails("a.safetensors", delete("nothing"), "there is no key");
    edit_fails("a.safetensors", name("norm", "lm_head.weight"), "exists already");
    edit_fails("a.safetensors", set("tokenizer.chat_template", LM_META_STR, "x"), "no chat_template.jinja");
}

static void test_bad_values(void **state)
{
    (void)state;
    make("a.gguf", "gguf");
    edit_fails("a.gguf", set("k", LM_META_U8, "256"), "no u8");
    edit_fails("a.gguf", set("k", LM_META_U8, "-1"), "no u8");
    edit_fails("a.gguf", set("k", LM_META_I8, "128"), "no i8");
    edit_fails("a.gguf", set("k", LM_META_I16, "1x"), "no i16");
    edit_fails("a.gguf", set("k", LM_META_F32, "1e99"), "no f32");
    edit_fails("a.gguf", set("k", LM_META_BOOL, "1"), "no bool");
    edit_fails("a.gguf", set("k", LM_META_STR, "\xff"), "not UTF-8");
    edit_fails("a.gguf", set("", LM_META_STR, "x"), "no name");
    edit_fails("a.gguf", set("general.alignment", -1, "33"), "general.alignment");
}

static void test_another_file(void **state)
{
    struct lm_edit x = set("general.name", -1, "copy");
    struct lm_edit_options o = {.out = in("b.gguf")};
    struct lm_edit_result r;
    struct lm_err e;

    (void)state;
    make("a.gguf", "gguf");
    uint64_t sum = data_sum("a.gguf");
    assert_int_equal(lm_edit(&r, in("a.gguf"), &x, 1, &o, &e), 0);
    assert_false(r.in_place);
    expect_str("b.gguf", "general.name", "copy");
    assert_true(data_sum("b.gguf") == sum);
    assert_int_equal(lm_edit(&r, in("a.gguf"), &x, 1, &o, &e), -1);
    assert_non_null(strstr(e.text, "--force"));
    assert_int_equal(symlink("a.gguf", in("link.gguf")), 0);
    o = (struct lm_edit_options){.out = in("link.gguf"), .force = true};
    assert_int_equal(lm_edit(&r, in("a.gguf"), &x, 1, &o, &e), -1);
    assert_non_null(strstr(e.text, "source itself"));
    edit("link.gguf", set("general.name", -1, "through the link"));
    expect_str("a.gguf", "general.name", "through the link");
}

/* Half of a new head is in the file when the machine stops: the copy beside it completes it. */
static void test_crash(void **state)
{
    struct lm_edit_result r;
    struct lm_err e = {0};
    uint8_t head[4096];
    size_t n = sizeof head;

    (void)state;
    make("a.gguf", "gguf");
    edit("a.gguf", set("general.name", -1, "first"));
    assert_true(size_of("a.gguf") > n);
    int fd = open(in("a.gguf"), O_RDWR);
    assert_int_equal(pread(fd, head, n, 0), (ssize_t)n);
    uint8_t front[32] = "lmedit1\n";
    lm_store_u64le(front + 8, size_of("a.gguf"));
    lm_store_u64le(front + 16, n);
    lm_store_u64le(front + 24, lmc_sum_of(head, n));
    struct bytes b = {0};
    put(&b, front, sizeof front);
    put(&b, head, n);
    memset(head, 0x77, n);
    assert_int_equal(pwrite(fd, head, 2048, 100), 2048);
    close(fd);
    write_file(in(".a.gguf.edit"), b.data, b.n);
    assert_int_equal(lm_edit(&r, in("a.gguf"), NULL, 0, &(struct lm_edit_options){0}, &e), 0);
    expect_str("a.gguf", "general.name", "first");
    assert_int_not_equal(access(in(".a.gguf.edit"), F_OK), 0);
    /* A copy that is not whole was written before the file was touched. */
    write_file(in(".a.gguf.edit"), b.data, b.n - 7);
    assert_true(edit("a.gguf", set("general.name", -1, "later")));
    expect_str("a.gguf", "general.name", "later");
    assert_int_not_equal(access(in(".a.gguf.edit"), F_OK), 0);
    bytes_free(&b);
}

/* ---- sets */

static void run_ok(const char *format, ...)
{
    char line[1024];
    va_list a;

    va_start(a, format);
    vsnprintf(line, sizeof line, format, a);
    va_end(a);
    if (system(line) != 0)
        fail_msg("%s", line);
}

static void make_set(const char *name, const char *format)
{
    struct lm_request r = {.to = lm_format_find(format), .dtype = -1, .max_file_bytes = 20000};
    struct lm_run_options o = {.force = true};
    struct lm_model *m;
    struct lm_plan *p = NULL;
    struct lm_err e = {0};

    if (lm_model_open(&m, "tests/fixtures/models/tiny-llama", &e) || lm_plan_make(&p, m, &r, &e) ||
        lm_plan_run(p, in(name), &o, &e))
        fail_msg("%s", e.text);
    lm_plan_free(p);
    lm_model_close(m);
}

/* Values of a tensor in a model, to see that they stay. */
static void same_values(const char *a, const char *name_a, const char *b, const char *name_b)
{
    struct lm_model *x = NULL, *y = NULL;
    struct lm_err e = {0};

    if (lm_model_open(&x, in(a), &e) || lm_model_open(&y, in(b), &e))
        fail_msg("%s", e.text);
    const struct lm_tensor *s = lm_model_find(x, name_a), *t = lm_model_find(y, name_b);
    assert_non_null(s);
    assert_non_null(t);
    assert_int_equal(s->n_bytes, t->n_bytes);
    assert_memory_equal(s->data, t->data, s->n_bytes);
    assert_int_equal(lm_model_n_tensors(x), lm_model_n_tensors(y));
    lm_model_close(x);
    lm_model_close(y);
}

static void test_gguf_set(void **state)
{
    (void)state;
    run_ok("mkdir -p %s/g", dir);
    make_set("g/s.gguf", "gguf");
    run_ok("cp -r %s/g %s/g.was", dir, dir);
    edit("g/s-00001-of-00006.gguf", set("general.name", -1, "a name that has not been as long as this before, not nearly so"));
    assert_true(edit("g", set("general.name", -1, "short")));
    expect_str("g", "general.name", "short");
    edit("g/s-00003-of-00006.gguf", name("blk.1.attn_q.weight", "blk.1.a_much_longer_name.weight"));
    edit_n("g", (struct lm_edit[]){name("output.weight", "out"), name("blk.1.ffn_up.weight", "up"), set("x.y", -1, "z")}, 3);
    expect_str("g", "x.y", "z");
    same_values("g", "blk.1.a_much_longer_name.weight", "g.was", "blk.1.attn_q.weight");
    same_values("g", "out", "g.was", "output.weight");
    same_values("g", "up", "g.was", "blk.1.ffn_up.weight");
    same_values("g", "blk.0.ffn_down.weight", "g.was", "blk.0.ffn_down.weight");
    edit_fails("g", name("out", "up"), "exists already");
}

static void test_safetensors_set(void **state)
{
    (void)state;
    make_set("t/", "safetensors");
    run_ok("cp -r %s/t %s/t.was", dir, dir);
    edit_n("t", (struct lm_edit[]){name("lm_head.weight", "head"), name("model.norm.weight", "norm"), set("note", -1, "x")}, 3);
    expect_str("t", "note", "x");
    same_values("t", "head", "t.was", "lm_head.weight");
    same_values("t", "norm", "t.was", "model.norm.weight");
    same_values("t", "model.layers.1.mlp.up_proj.weight", "t.was", "model.layers.1.mlp.up_proj.weight");
    edit_fails("t", name("head", "norm"), "exists already");
    edit_fails("t", name("nothing", "norm"), "no tensor");
}

static void expect_file(const char *file, const char *text)
{
    char got[4096] = "";
    FILE *f = fopen(in(file), "r");

    assert_non_null(f);
    got[fread(got, 1, sizeof got - 1, f)] = 0;
    fclose(f);
    assert_string_equal(got, text);
}

/* The rest of the file stays as it was, numbers included that no parser keeps. */
static void test_template_beside(void **state)
{
    static const struct { const char *was, *becomes; } cases[] = {
        {"{\"a\": [1, {\"chat_template\": 2}], \"chat_template\": \"old \\\" }\", \"m\": 1000000000000000019884624838656}\n",
         "{\"a\": [1, {\"chat_template\": 2}], \"chat_template\": \"ż {{ \\\"x\\\" }}\\n\", \"m\": 1000000000000000019884624838656}\n"},
        {"{\"m\": 1e-05}", "{\n  \"chat_template\": \"ż {{ \\\"x\\\" }}\\n\",\"m\": 1e-05}"},
        {"{ }", "{\n  \"chat_template\": \"ż {{ \\\"x\\\" }}\\n\"\n }"},
        {"{\"chat_template\": [{\"name\": \"tool\", \"template\": \"t\"}, {\"template\": \"d\", \"name\": \"default\"}]}",
         "{\"chat_template\": [{\"name\": \"tool\", \"template\": \"t\"}, {\"template\": \"ż {{ \\\"x\\\" }}\\n\", "
         "\"name\": \"default\"}]}"},
    };
    struct lm_edit x = set("tokenizer.chat_template", LM_META_STR, "ż {{ \"x\" }}\n");
    (void)state;

    run_ok("mkdir -p %s/h", dir);
    make("h/model.safetensors", "safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(in("h/tokenizer_config.json"), cases[i].was, strlen(cases[i].was));
        edit("h", x);
        expect_file("h/tokenizer_config.json", cases[i].becomes);
    }
    const char *bad[] = {"[]", "{\"a\" 1}", "{\"chat_template\": [{\"name\": \"tool\", \"template\": \"t\"}]}", "", "{\"a"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file(in("h/tokenizer_config.json"), bad[i], strlen(bad[i]));
        edit_fails("h", x, "tokenizer_config.json");
        expect_file("h/tokenizer_config.json", bad[i]);
    }
    write_file(in("h/chat_template.jinja"), "old", 3);
    edit("h", x);
    expect_file("h/chat_template.jinja", "ż {{ \"x\" }}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_gguf_tensor_names),
        cmocka_unit_test(test_safetensors),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_another_file),
        cmocka_unit_test(test_crash),
        cmocka_unit_test(test_gguf_set),
        cmocka_unit_test(test_safetensors_set),
        cmocka_unit_test(test_template_beside),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
