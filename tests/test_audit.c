/* Every rule is planted once in a healthy model and named; healthy models give
 * no error. */
#include "tests/audit_plants.h"

static char here[64]; /* of one test */

static void finds(const char *path, enum lm_rule_id r)
{
    struct lm_audit *a = audit(path);
    first_of(a, r);
    lm_audit_free(a);
}

static int remove_base(void **state)
{
    (void)state;
    tmp_remove(base);
    return 0;
}
static int begin(void **state)
{
    (void)state;
    tmp_fast(here);
    return 0;
}
static int end(void **state)
{
    (void)state;
    tmp_remove(here);
    return 0;
}

static bool covered[LM_N_RULES];

static void test_planted(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_PLANTS; i++) {
        finds(plant(&plants[i], here), plants[i].rule);
        covered[plants[i].rule] = true;
        tmp_remove(here);
        tmp_fast(here);
    }
}

/* ---- damage to files */

static const char *file(const char *name, const void *data, size_t n)
{
    const char *path = path_in(here, name);
    write_file(path, data, n);
    return path;
}
static void file_finds(const char *name, const void *data, size_t n, enum lm_rule_id r)
{
    finds(file(name, data, n), r);
    covered[r] = true;
}
static void text_finds(const char *name, const char *text, enum lm_rule_id r)
{
    file_finds(name, text, strlen(text), r);
}

/* The copy that --fix makes has it no longer. */
static void fixes(const char *from, const char *to, enum lm_rule_id r)
{
    struct lm_audit *a = audit(from);
    struct lm_err e = {0};
    size_t fixed;

    if (lm_audit_fix(a, to, false, &fixed, &e) < 0)
        fail_msg("%s: %s", to, e.text);
    lm_audit_free(a);
    a = audit(to);
    assert_int_equal(count_of(a, r), 0);
    lm_audit_free(a);
}

static void test_other_files(void **state)
{
    (void)state;
    text_finds("a.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", R(file_lfs_pointer));
    text_finds("b.gguf", "<!DOCTYPE html><html>401</html>", R(file_web_page));
    text_finds("c.gguf", "", R(file_empty));
    text_finds("d.model", "just some text that is no model", R(file_foreign));
}

/* A safetensors file with this header and n bytes of data. */
static void header_finds(const char *header, size_t n, enum lm_rule_id r, size_t times)
{
    struct bytes b = {0};
    struct lm_audit *a;

    put_safetensors(&b, header, n);
    a = audit(file("m.safetensors", b.data, b.n));
    first_of(a, r);
    assert_int_equal(count_of(a, r), times);
    covered[r] = true;
    bytes_free(&b);
    lm_audit_free(a);
}

static void test_safetensors_regions(void **state)
{
#define T(name, b, e) "\"" name "\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[" b "," e "]}"
    (void)state;
    header_finds("{" T("x", "0", "16") "," T("y", "8", "24") "," T("z", "16", "32") "}", 32, R(tensor_overlap), 2);
    header_finds("{" T("x", "0", "12") "}", 12, R(tensor_short), 1);
    header_finds("{" T("x", "0", "16") "," T("y", "32", "48") "}", 48, R(hidden_bytes), 1);
    header_finds("{" T("x", "0", "16") "}", 24, R(hidden_bytes), 1);
    header_finds("{" T("x", "0", "16") "," T("y", "16", "32") "}", 20, R(file_truncated), 1);
    header_finds("{" T("x", "0", "16") "," T("x", "16", "32") "}", 32, R(tensor_twice), 1);
    header_finds("{" T("x", "0", "16") ",", 16, R(header_broken), 1);
}

struct gguf_row { const char *name; uint32_t type; uint64_t ne, offset; };

static void put_header(struct bytes *b, const struct gguf_row *t, size_t n, uint32_t version)
{
    put_text(b, "GGUF");
    put_u32(b, version);
    put_u64(b, n);
    put_u64(b, 0);
    for (size_t i = 0; i < n; i++) {
        put_str(b, t[i].name);
        put_u32(b, 1);
        put_u64(b, t[i].ne);
        put_u32(b, t[i].type);
        put_u64(b, t[i].offset);
    }
    pad_to(b, 32);
}
static void gguf_finds(const struct gguf_row *t, size_t n, uint32_t version, size_t data, enum lm_rule_id r)
{
    struct bytes b = {0};

    put_header(&b, t, n, version);
    put_zeros(&b, data);
    file_finds("m.gguf", b.data, b.n, r);
    bytes_free(&b);
}

static void test_gguf_regions(void **state)
{
    static const struct gguf_row overlap[] = {{"a", 0, 32, 0}, {"b", 0, 32, 64}};
    static const struct gguf_row twice[] = {{"a", 0, 32, 0}, {"a", 0, 32, 128}};
    static const struct gguf_row crooked[] = {{"a", 0, 4, 0}, {"b", 0, 4, 20}};
    static const struct gguf_row unknown[] = {{"a", 31, 32, 0}};
    static const struct gguf_row gap[] = {{"a", 0, 8, 0}, {"b", 0, 8, 96}};
    static const struct gguf_row one[] = {{"a", 0, 8, 0}};

    (void)state;
    gguf_finds(overlap, 2, 3, 192, R(tensor_overlap));
    gguf_finds(twice, 2, 3, 256, R(tensor_twice));
    gguf_finds(crooked, 2, 3, 64, R(tensor_misaligned));
    gguf_finds(unknown, 1, 3, 64, R(type_unknown));
    gguf_finds(gap, 2, 3, 128, R(gguf_gap));
    gguf_finds(one, 1, 3, 500, R(gguf_trailing));
    gguf_finds(one, 1, 2, 32, R(gguf_old));
    gguf_finds(one, 1, 3, 8, R(file_truncated));
}

/* The layout of ik_llama.cpp's pull request 2437: 129 expert tensors, of which
 * all but two are shorter in the file than their shape. */
static void test_published_overlap(void **state)
{
    enum { N = 129 };
    struct gguf_row t[N];
    char names[N][48];
    struct bytes b = {0};
    uint64_t at = 0;

    (void)state;
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "blk.%d.ffn_down_exps.weight", i);
        t[i] = (struct gguf_row){names[i], 0, 64, at};
        at += i < N - 2 ? 192 : 256;
    }
    put_header(&b, t, N, 3);
    put_zeros(&b, at);
    struct lm_audit *a = audit(file("m.gguf", b.data, b.n));
    assert_int_equal(count_of(a, R(tensor_overlap)), 127);
    lm_audit_free(a);
    bytes_free(&b);
}

static void test_big_endian(void **state)
{
    struct bytes b = {0};

    (void)state;
    put_text(&b, "GGUF");
    put_u32(&b, __builtin_bswap32(3));
    put_u64(&b, __builtin_bswap64(1));
    put_u64(&b, 0);
    put_u64(&b, __builtin_bswap64(1));
    put_text(&b, "w");
    put_u32(&b, __builtin_bswap32(1));
    put_u64(&b, __builtin_bswap64(4));
    put_u32(&b, 0);
    put_u64(&b, 0);
    pad_to(&b, 32);
    put_zeros(&b, 32);
    file_finds("m.gguf", b.data, b.n, R(gguf_big_endian));
    fixes(path_in(here, "m.gguf"), path_in(here, "fixed.gguf"), R(gguf_big_endian));
    bytes_free(&b);
}

static void test_shards(void **state)
{
    struct mut *x = mut_load(LLAMA);
    const char *index = path_in(here, "model.safetensors.index.json");

    (void)state;
    mut_write_split(x, "safetensors", here, "model.safetensors", 30000);
    char *text = NULL;
    size_t n = 0;
    FILE *f = fopen(index, "rb");
    assert_true(getdelim(&text, &n, EOF, f) > 0);
    fclose(f);
    /* another size */
    char *changed = malloc(strlen(text) + 100), *at = strstr(text, "\"total_size\":");
    assert_non_null(at);
    sprintf(changed, "%.*s\"total_size\": 7%s", (int)(at - text), text, at + strcspn(at, ",}"));
    write_file(index, changed, strlen(changed));
    finds(here, R(index_size));
    covered[R(index_size)] = true;
    fixes(here, path_in(here, "fixed"), R(index_size));
    /* a line of the map less */
    at = strstr(text, "\"" Q0 "\"");
    assert_non_null(at);
    sprintf(changed, "%.*s%s", (int)(at - text), text, at + strcspn(at, ",") + 1);
    write_file(index, changed, strlen(changed));
    finds(here, R(index_wrong));
    covered[R(index_wrong)] = true;
    /* a shard less */
    write_file(index, text, strlen(text));
    struct lm_model *m = open_ok(here);
    assert_int_equal(unlink(lm_model_file(m, 0)->path), 0);
    lm_model_close(m);
    finds(here, R(shard_missing));
    covered[R(shard_missing)] = true;
    free(changed);
    free(text);
    mut_free(x);
}

static void test_folder(void **state)
{
    struct mut *x = mut_load(LLAMA);

    (void)state;
    mut_write(x, "safetensors", here);
    file("pytorch_model.bin", "x", 1);
    file("consolidated.00.pth", "x", 1);
    finds(here, R(pickle_beside));
    finds(here, R(consolidated_beside));
    covered[R(pickle_beside)] = covered[R(consolidated_beside)] = true;
    mut_write_split(x, "safetensors", here, "other.safetensors", 0);
    unlink(path_in(here, "model.safetensors"));
    mut_write_split(x, "safetensors", here, "another.safetensors", 0);
    finds(here, R(two_models));
    covered[R(two_models)] = true;
    mut_free(x);
}

/* cos\nsystem\n(S'…'\ntR. and the same by STACK_GLOBAL through the memo. */
static void test_pickle(void **state)
{
    static const char old[] = "\x80\x02" "cposix\nsystem\n(S'true'\ntR.";
    static const char modern[] = "\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93\x94(\x8c\x04trueR.";
    static const char harmless[] = "\x80\x02" "ccollections\nOrderedDict\n)R.";
    struct lm_audit *a;

    (void)state;
    a = audit(file("a.bin", old, sizeof old - 1));
    assert_non_null(strstr(first_of(a, R(pickle_code))->found, "posix.system"));
    lm_audit_free(a);
    a = audit(file("b.pt", modern, sizeof modern - 1));
    assert_non_null(strstr(first_of(a, R(pickle_code))->found, "os.system"));
    lm_audit_free(a);
    a = audit(file("c.pt", harmless, sizeof harmless - 1));
    assert_int_equal(count_of(a, R(pickle_code)), 0);
    lm_audit_free(a);
    a = audit(file("d.pt", "\x80\x02\xffgarbage", 10));
    assert_non_null(strstr(first_of(a, R(pickle_code))->found, "broken"));
    lm_audit_free(a);
    covered[R(pickle_code)] = true;
}

static void test_zipped_pickle(void **state)
{
    static const char stream[] = "\x80\x02" "c__builtin__\neval\n(S'1'\ntR.";
    struct bytes b = {0};
    struct lm_audit *a;

    (void)state;
    put_text(&b, "PK\3\4");
    put_zeros(&b, 22);
    put_u16(&b, 12);
    put_u16(&b, 0);
    put_text(&b, "x/data.pkl");
    b.data[26] = 10;
    put(&b, stream, sizeof stream - 1);
    a = audit(file("m.bin", b.data, b.n));
    assert_non_null(strstr(first_of(a, R(pickle_code))->found, "__builtin__.eval"));
    lm_audit_free(a);
    bytes_free(&b);
}

/* A safetensors file whose first bytes, the header's length, look like a pickle's. */
static void test_length_like_a_pickle(void **state)
{
    struct bytes b = {0};
    struct lm_audit *a;
    char header[0x280 + 1];

    (void)state;
    memset(header, ' ', sizeof header - 1);
    header[sizeof header - 1] = 0;
    memcpy(header, "{}", 2);
    put_safetensors(&b, header, 0);
    assert_true(b.data[0] == 0x80 && b.data[1] == 0x02);
    a = audit(file("m.safetensors", b.data, b.n));
    assert_int_equal(count_of(a, R(pickle_code)), 0);
    lm_audit_free(a);
    bytes_free(&b);
}

static void test_unaligned(void **state)
{
    struct bytes b = {0};
    char odd[128];

    (void)state;
    snprintf(odd, sizeof odd, "{%s}", T("x", "0", "16"));
    while ((strlen(odd) + 8) % 4 != 2)
        strcat(odd, " ");
    mkdir(path_in(here, "odd"), 0777);
    put_safetensors(&b, odd, 16);
    write_file(path_in(here, "odd/model.safetensors"), b.data, b.n);
    finds(path_in(here, "odd"), R(safetensors_unaligned));
    covered[R(safetensors_unaligned)] = true;
    fixes(path_in(here, "odd"), path_in(here, "even"), R(safetensors_unaligned));
    struct lm_model *x = open_ok(path_in(here, "odd")), *y = open_ok(path_in(here, "even"));
    assert_memory_equal(lm_model_tensor(x, 0)->data, lm_model_tensor(y, 0)->data, 16);
    lm_model_close(x);
    lm_model_close(y);
    bytes_free(&b);
}

static void test_template_stop(void **state)
{
    struct mut *x = mut_load(LLAMA);

    (void)state;
    copy_side(x, "tokenizer.json", "tests/fixtures/tokenizers/llama3/tokenizer.json");
    mut_side_text(x, "tokenizer_config.json", "{\"eos_token\": \"<|end_of_text|>\"}");
    mut_side_text(x, "chat_template.jinja", "{% for m in messages %}{{ m.content }}<|eot_id|>{% endfor %}");
    mut_write(x, "safetensors", here);
    finds(here, R(template_eos));
    covered[R(template_eos)] = true;
    fixes(here, path_in(here, "fixed"), R(template_eos));
    mut_free(x);
}

static void test_every_rule_was_planted(void **state)
{
    size_t missing = 0;

    (void)state;
    for (size_t i = 0; i < LM_N_RULES; i++)
        if (!covered[i]) {
            print_error("no test plants %s\n", lm_rule_at(i)->id);
            missing++;
        }
    assert_int_equal(missing, 0);
    assert_true(LM_N_RULES >= 60);
}

/* ---- the table: rules and containers */

static size_t found[LM_N_RULES][N_DRESSES], false_alarms[LM_N_RULES], n_healthy;

static bool is_found(const char *path, enum lm_rule_id r)
{
    struct lm_audit *a = audit(path);
    bool yes = count_of(a, r) > 0;

    lm_audit_free(a);
    return yes;
}

/* A plant in every container that takes it. From a GGUF only in GGUF: what lies there lies nowhere else. */
static void spread(const struct plant *p)
{
    char folder[128], damaged[160], to[128];
    struct lm_err e = {0};
    bool gguf = !strchr(p->from, '/');

    snprintf(folder, sizeof folder, "%s/damaged", here);
    snprintf(to, sizeof to, "%s/to", here);
    mkdir(folder, 0777);
    mkdir(to, 0777);
    plant(p, folder);
    snprintf(damaged, sizeof damaged, gguf ? "%s/model.gguf" : "%s", folder);
    for (size_t k = 0; k < N_DRESSES; k++) {
        bool is_gguf = dresses[k].to && strcmp(dresses[k].to, "gguf") == 0;
        if ((gguf && !is_gguf) || dresses[k].dtype >= 0)
            continue;
        const char *path = k == 0 || (gguf && !dresses[k].max) ? damaged : dress_try(damaged, &dresses[k], to, &e);
        found[p->rule][k] += path && is_found(path, p->rule);
    }
}

static void test_every_container(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_PLANTS; i++) {
        spread(&plants[i]);
        tmp_remove(here);
        tmp_fast(here);
    }
    /* What is wrong with values is found wherever they lie. */
    static const enum lm_rule_id of_values[] = {R(value_nan), R(value_infinite), R(matrix_zero), R(matrix_constant),
                                                R(rows_zero), R(rows_duplicate), R(tensors_equal), R(f16_overflow),
                                                R(f16_flush), R(rows_outlier), R(layer_outlier), R(norm_centred)};
    for (size_t i = 0; i < sizeof of_values / sizeof of_values[0]; i++)
        for (size_t k = 0; k < N_DRESSES; k++)
            if (dresses[k].dtype < 0 && found[of_values[i]][k] == 0)
                fail_msg("%s is not found in %s", lm_rule_at(of_values[i])->id, dresses[k].what);
}

/* Findings that are true of the healthy models: they are tiny, have no
 * tokenizer, some have windows; what is widened on purpose is wide, and a tie is
 * written out where a container knows none. */
static bool is_true(enum lm_rule_id r, const struct dress *d)
{
    return r == R(tokenizer_missing) || r == R(rows_not_whole) || r == R(sliding_window) ||
           (r == R(wider_than_needed) && d->dtype >= 0) || (r == R(tie_copy) && d->to && strcmp(d->to, "keras") == 0);
}

static void count_alarms(const char *path, const char *model, const struct dress *d)
{
    struct lm_audit *a = audit(path);

    for (size_t i = 0; i < a->n_findings; i++) {
        const struct lm_finding *f = &a->findings[i];
        if (is_true(f->rule, d))
            continue;
        false_alarms[f->rule]++;
        print_error("%s as %s: %s: %s: %s\n", model, d->what, lm_rule_at(f->rule)->id, f->where, f->found);
    }
    n_healthy++;
    lm_audit_free(a);
}

/* Every family in every container, as it is and as we convert it. */
static void test_no_false_alarm(void **state)
{
    static const char *const types[] = {"Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "Q4_0", "IQ4_XS", "TQ2_0"};
    static const struct dress as_it_is = {"it is", NULL, "", -1, 0}, quantized = {"quantized GGUF", "gguf", "", -1, 0};

    (void)state;
    for (size_t i = 0; i < N_DRESS_MODELS; i++) {
        count_alarms(dress_models[i], dress_models[i], &as_it_is);
        for (size_t k = 0; k < N_DRESSES; k++) {
            char tmp[64];
            tmp_fast(tmp);
            const char *path = dress_make(dress_models[i], &dresses[k], tmp);
            if (path)
                count_alarms(path, dress_models[i], &dresses[k]);
            tmp_remove(tmp);
        }
    }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        convert(SAMPLE, path_in(here, "q.gguf"), -1, types[i]);
        count_alarms(path_in(here, "q.gguf"), types[i], &quantized);
        unlink(path_in(here, "q.gguf"));
    }
    for (size_t r = 0; r < LM_N_RULES; r++)
        assert_int_equal(false_alarms[r], 0);
    struct lm_audit *a = audit(SAMPLE);
    assert_int_equal(a->n_findings, 0);
    lm_audit_free(a);
}

/* LM_AUDIT_TABLE=1: as text, for the README's figures. */
static void test_table(void **state)
{
    bool show = getenv("LM_AUDIT_TABLE") != NULL;
    size_t cells = 0;

    (void)state;
    for (size_t r = 0; r < LM_N_RULES; r++) {
        size_t n = 0;
        for (size_t k = 0; k < N_DRESSES; k++)
            n += found[r][k];
        cells += n;
        assert_true(covered[r]);
        if (!show)
            continue;
        printf("%-22s", lm_rule_at(r)->id);
        for (size_t k = 0; k < N_DRESSES; k++)
            if (dresses[k].dtype < 0)
                printf(" %-20s", n == 0 ? "" : found[r][k] ? dresses[k].what : "-");
        printf(" %s  false alarms %zu\n", n == 0 ? "in a file made for it" : "", false_alarms[r]);
    }
    print_message("%d rules, all found; %zu found by container; %zu healthy models, no false alarm\n", LM_N_RULES, cells, n_healthy);
}

/* ---- --fix */

/* Mended and nothing else changed: the rule is silent afterwards, tensors equal. */
static void check_fix(const struct plant *p)
{
    const char *path = plant(p, here);
    bool gguf = !strchr(p->from, '/');
    struct lm_audit *a = audit(path), *b;
    struct lm_err e = {0};
    size_t fixed;
    char to[128];

    snprintf(to, sizeof to, gguf ? "%s/fixed.gguf" : "%s/fixed", here);
    first_of(a, p->rule);
    if (lm_audit_fix(a, to, false, &fixed, &e) < 0)
        fail_msg("%s: %s", lm_rule_at(p->rule)->id, e.text);
    assert_true(fixed >= 1);
    b = audit(to);
    if (count_of(b, p->rule))
        fail_msg("%s is still there: %s", lm_rule_at(p->rule)->id, first_of(b, p->rule)->found);
    assert_int_equal(a->n_tensors, b->n_tensors);
    for (size_t i = 0; i < a->n_tensors; i++)
        assert_memory_equal(a->tensors[i].t->data, b->tensors[i].t->data, a->tensors[i].t->n_bytes);
    assert_int_equal(lm_audit_fix(a, to, false, &fixed, &e), -1); /* not without force */
    assert_int_equal(lm_audit_fix(a, gguf ? path : here, true, &fixed, &e), -1); /* never the source */
    lm_audit_free(a);
    lm_audit_free(b);
}

static void test_fix(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_PLANTS; i++) {
        if (!lm_rule_at(plants[i].rule)->fixable)
            continue;
        check_fix(&plants[i]);
        tmp_remove(here);
        tmp_fast(here);
    }
}

static void test_fix_places(void **state)
{
    static const struct gguf_row gap[] = {{"a", 0, 8, 0}, {"b", 0, 8, 96}};
    struct bytes b = {0};
    size_t fixed;
    struct lm_err e = {0};

    (void)state;
    put_header(&b, gap, 2, 2);
    put_zeros(&b, 400);
    struct lm_audit *a = audit(file("m.gguf", b.data, b.n));
    assert_int_equal(lm_audit_fix(a, path_in(here, "new.gguf"), false, &fixed, &e), 0);
    lm_audit_free(a);
    a = audit(path_in(here, "new.gguf"));
    assert_int_equal(count_of(a, R(gguf_gap)) + count_of(a, R(gguf_trailing)) + count_of(a, R(gguf_old)), 0);
    lm_audit_free(a);
    bytes_free(&b);
}

/* ---- the table itself */

static void test_rules_are_complete(void **state)
{
    (void)state;
    for (size_t i = 0; i < LM_N_RULES; i++) {
        const struct lm_rule *r = lm_rule_at(i);
        assert_ptr_equal(lm_rule_find(r->id), r);
        assert_true(strlen(r->title) > 5 && strlen(r->why) > 10 && strlen(r->mend) >= 4);
        assert_true(!r->thread || strncmp(r->thread, "https://", 8) == 0);
        assert_true(r->why[strlen(r->why) - 1] != '.');
    }
    assert_null(lm_rule_at(LM_N_RULES));
    assert_null(lm_rule_find("no-such-rule"));
}

static void test_nothing_there(void **state)
{
    struct lm_audit *a;
    struct lm_err e = {0};

    (void)state;
    assert_int_equal(lm_audit_path(&a, "nowhere.gguf", &(struct lm_audit_options){0}, &e), -1);
    assert_int_equal(e.code, LM_MISSING);
    assert_int_equal(lm_audit_path(&a, here, &(struct lm_audit_options){0}, &e), -1);
    assert_null(a);
}

int main(void)
{
#define C(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        C(test_planted), C(test_other_files), C(test_safetensors_regions), C(test_gguf_regions), C(test_published_overlap),
        C(test_big_endian), C(test_shards), C(test_folder), C(test_pickle), C(test_length_like_a_pickle),
        C(test_unaligned), C(test_zipped_pickle), C(test_template_stop),
        C(test_every_rule_was_planted), C(test_every_container), C(test_no_false_alarm), C(test_table),
        C(test_fix), C(test_fix_places), C(test_rules_are_complete), C(test_nothing_there),
    };
    return cmocka_run_group_tests(tests, make_base, remove_base);
}
