/* What commands print of names, metadata and vocabularies that were made to
 * harm: valid UTF-8 without control characters, and JSON that parses. */
#include "tests/commands.h"
#include "tests/mutate.h"

#include <jansson.h>

#define EVIL "\x1b[2J\x07\r\n\t\x7f\xc2\x9b\"}{\\ %s%n"
#define EVIL_BYTES EVIL "\xff\xfe\xc0\x80\xed\xa0\x80"

/* ---- models */

static void evil_gguf(void)
{
    struct mut *x = mut_load("samples/polish-5m");
    struct lm_span strs[3] = {lm_span_str(EVIL), lm_span_of(EVIL_BYTES, sizeof EVIL_BYTES - 1), lm_span_str("")};
    const uint64_t shape[1] = {4};

    lm_meta_set_str(x->meta, "general.name", lm_span_of(EVIL_BYTES, sizeof EVIL_BYTES - 1));
    lm_meta_set_str(x->meta, "key " EVIL, lm_span_of(EVIL_BYTES, sizeof EVIL_BYTES - 1));
    lm_meta_set_strs(x->meta, "list " EVIL, strs, 3);
    lm_meta_set_str(x->meta, "tokenizer.chat_template", lm_span_of(EVIL_BYTES, sizeof EVIL_BYTES - 1));
    lm_meta_set_str(x->meta, LM_META_ASSUMED, lm_span_of(EVIL_BYTES, sizeof EVIL_BYTES - 1));
    mut_add(x, "evil " EVIL, LM_F32, 1, shape, NULL);
    mut_write_split(x, "gguf", dir, "evil.gguf", 0);
    mut_free(x);
}

/* The sample as a GGUF, its vocabulary and architecture changed. */
static void evil_vocabulary(const char *name, bool architecture)
{
    const char *const argv[] = {command_path("lm-convert"), "samples/polish-5m", path_in(dir, "sample.gguf"), "--force", NULL};
    struct output o = command_run(argv, dir);
    assert_int_equal(o.code, 0);
    output_free(&o);
    struct mut *x = mut_load(path_in(dir, "sample.gguf"));
    const struct lm_meta_value *tokens = lm_meta_get(x->meta, "tokenizer.ggml.tokens");
    struct lm_span *strs = calloc(tokens->n, sizeof *strs);
    static char texts[200][64];
    for (size_t i = 0; i < tokens->n; i++) {
        strs[i] = tokens->strs[i];
        if (i >= 300 && i < 500) {
            int n = snprintf(texts[i - 300], sizeof texts[0], "%zu%s", i, i % 2 ? "\x1b[31m\x07\xc2\x9b\n" : "\xff\xfe\x1b");
            strs[i] = lm_span_of(texts[i - 300], (size_t)n);
        }
    }
    lm_meta_set_strs(x->meta, "tokenizer.ggml.tokens", strs, tokens->n);
    free(strs);
    if (architecture)
        lm_meta_set_str(x->meta, "general.architecture", lm_span_str("evil " EVIL));
    lm_meta_set_str(x->meta, "general.name", lm_span_of(EVIL_BYTES, sizeof EVIL_BYTES - 1));
    mut_write_split(x, "gguf", dir, name, 0);
    mut_free(x);
}

static void evil_folder(void)
{
    struct mut *x = mut_load("tests/fixtures/models/tiny-llama");
    const uint64_t shape[1] = {4};
    const char *folder = path_in(dir, "evil-hub");

    mut_edit(x, "config.json", "{", "{\"evil \\u001b[2J\": \"\\u001b]0;x\\u0007\\u009b\\n\", \"name\\n\": [\"\\u001b\", {\"\\u0007\": 1}],");
    mut_add(x, "evil \x1b[31m\xc2\x9b\n", LM_F32, 1, shape, NULL);
    mut_write(x, "safetensors", folder);
    mut_free(x);
}

/* ---- what may be printed */

/* Tabs separate the columns of what has one piece a line. */
static bool is_control(const uint8_t *p, size_t left, bool tabs)
{
    if (p[0] < 0x20)
        return p[0] != '\n' && !(tabs && p[0] == '\t');
    return p[0] == 0x7f || (p[0] == 0xc2 && left > 1 && p[1] >= 0x80 && p[1] < 0xa0);
}

static void assert_clean(const char *what, const struct bytes *b)
{
    if (!lm_utf8_valid(lm_span_of(b->data, b->n)))
        fail_msg("%s: what it prints is not UTF-8", what);
    for (size_t i = 0; i < b->n; i++)
        if (is_control(b->data + i, b->n - i, strncmp(what, "lm-vocab", 8) == 0 || strncmp(what, "lm-tokenize", 11) == 0))
            fail_msg("%s prints the control character 0x%02x after '%.*s'", what, b->data[i], (int)(i < 60 ? i : 60),
                     b->data + (i < 60 ? 0 : i - 60));
}

/* One document, or one a line. */
static void assert_json(const char *what, const struct bytes *b)
{
    size_t at = 0, n = 0;

    while (at < b->n) {
        json_error_t why;
        json_t *one = json_loadb((const char *)b->data + at, b->n - at, JSON_DISABLE_EOF_CHECK | JSON_REJECT_DUPLICATES, &why);
        if (!one)
            fail_msg("%s: no JSON: %s at %d of '%.100s'", what, why.text, why.position, b->data + at);
        at += (size_t)why.position;
        n++;
        json_decref(one);
        while (at < b->n && (b->data[at] == '\n' || b->data[at] == ' '))
            at++;
    }
    if (n == 0)
        fail_msg("%s printed nothing", what);
}

static const char *const runs[][10] = {
    {"lm-list", "@"}, {"lm-list", "--meta", "@"}, {"lm-list", "--fold", "@"}, {"lm-list", "--by", "layer", "@"},
    {"lm-list", "--by", "role", "@"}, {"lm-list", "--by", "dtype", "@"}, {"lm-list", "--filter", "*evil*", "@"},
    {"lm-vocab", "@"}, {"lm-vocab", "--find", "3", "@"}, {"lm-vocab", "--id", "301", "@"}, {"lm-vocab", "--merges", "@"},
    {"lm-tokenize", "@", "301 \x1b 302"}, {"lm-tokenize", "--pieces", "@", "301 \x1b 302"},
    {"lm-audit", "@"}, {"lm-diff", "@", "samples/polish-5m"}, {"lm-diff", "samples/polish-5m", "@"}, {"lm-diff", "@", "@"},
    {"lm-hash", "@"}, {"lm-verify", "@", "@"}, {"lm-verify", "@", "samples/polish-5m"}, {"lm-trace", "@", "301 302"},
    {"lm-convert", "--force", "--allow-unknown", "@", "^/x.gguf"}, {"lm-convert", "--force", "@", "^/x.gguf"},
    {"lm-convert", "--force", "--allow-unknown", "@", "^/x.npz"}, {"lm-convert", "--force", "--allow-unknown", "@", "^/x/"},
    {"lm-convert", "--force", "--allow-unknown", "--dtype", "f16", "@", "^/x.gguf"},
    {"lm-quantize", "--force", "--type", "Q4_K_M", "@", "^/x.gguf"},
};

/* All of them over a model; the JSON of those that succeed must parse. */
static void run_all(const char *model, size_t *n, size_t *n_json)
{
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++)
        for (int json = 0; json < 2; json++) {
            const char *argv[14] = {command_path(runs[i][0])};
            char words[12][600], what[200];
            size_t k = 1;
            for (; runs[i][k]; k++) {
                const char *w = runs[i][k];
                snprintf(words[k], sizeof words[k], "%s%s", w[0] == '@' ? model : w[0] == '^' ? dir : w, w[0] == '^' ? w + 1 : "");
                argv[k] = words[k];
            }
            if (json)
                argv[k++] = "--json";
            struct output o = command_run(argv, dir);
            snprintf(what, sizeof what, "%s %s%s (%s)", runs[i][0], runs[i][1], json ? " --json" : "", strrchr(model, '/') + 1);
            if (o.code < 0)
                fail_msg("%s ended by signal %d", what, -o.code);
            assert_clean(what, &o.err);
            assert_clean(what, &o.out);
            if (json && (o.code == 0 || o.out.n)) {
                assert_json(what, &o.out);
                ++*n_json;
            }
            ++*n;
            output_free(&o);
        }
}

static void nothing_reaches_the_terminal(void **state)
{
    (void)state;
    size_t n = 0, n_json = 0;

    evil_gguf();
    evil_vocabulary("evil-vocab.gguf", false);
    evil_vocabulary("evil-arch.gguf", true);
    evil_folder();
    const char *const models[] = {"evil.gguf", "evil-vocab.gguf", "evil-arch.gguf", "evil-hub"};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char path[200];
        snprintf(path, sizeof path, "%s/%s", dir, models[i]);
        run_all(path, &n, &n_json);
    }
    print_message("%zu outputs, %zu of them JSON\n", n, n_json);
    assert_true(n_json >= 60);
}

/* What is printed as it goes, one event, piece or line after the other, or into a file. */
static void streams_of_json_are_escaped(void **state)
{
    (void)state;
    static const char lines[] = "\"301 \\u001b\\u009b \x7f\"\n{\"text\": \"\xc2\x9b 302 \x7f\"}\n", ids[] = "[301,302,303,304,305]\n{\"ids\":[307,309]}\n";
    char paths[5][128]; /* path_in's are good for a while only */
    const char *const names[5] = {"evil-vocab.gguf", "texts.jsonl", "ids.jsonl", "report.json", "q.gguf"};
    for (size_t i = 0; i < 5; i++)
        snprintf(paths[i], sizeof paths[i], "%s/%s", dir, names[i]);
    const char *model = paths[0], *text = paths[1], *numbers = paths[2], *report = paths[3], *quantized = paths[4];
    const char *const commands[][12] = {
        {"lm-generate", "--json", "--logprobs", "5", "-n", "6", "--ignore-eos", "-p", "301 302", model},
        {"lm-generate", "--json", "--temp", "3", "--seed", "7", "-n", "12", "-p", "\x7f \xc2\x9b", model},
        {"lm-tokenize", "--jsonl", "-f", text, model}, {"lm-tokenize", "--jsonl", "--pieces", "-f", text, model},
        {"lm-tokenize", "--jsonl", "--decode", "--show-special", "-f", numbers, model},
        {"lm-tokenize", "--json", "--decode", model, "301", "303", "305"}, {"lm-vocab", "--json", model},
        {"lm-vocab", "--json", "--stats", model}, {"lm-quantize", "--json", "--force", "--type", "Q8_0", "--report", report, model, quantized},
    };

    evil_vocabulary("evil-vocab.gguf", false);
    write_file(text, lines, sizeof lines - 1);
    write_file(numbers, ids, sizeof ids - 1);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        const char *argv[14] = {command_path(commands[i][0])};
        for (size_t k = 1; k < 12; k++)
            argv[k] = commands[i][k];
        struct output o = command_run(argv, dir);
        if (o.code != 0)
            fail_msg("%s %s: %s", commands[i][0], commands[i][1], (const char *)o.err.data);
        assert_clean(commands[i][0], &o.out);
        assert_clean(commands[i][0], &o.err);
        assert_json(commands[i][0], &o.out);
        output_free(&o);
    }
    struct bytes b = read_back(report);
    assert_clean("the report", &b);
    assert_json("the report", &b);
    bytes_free(&b);
}

/* Names of files come from the command line and are shown in every message. */
static void names_of_files_are_escaped(void **state)
{
    (void)state;
    static const char *const names[] = {"\x1b[31mred.gguf", "bad\xff.safetensors", "a\nb.npz", "\xc2\x9b.pt"};
    static const char *const commands[] = {"lm-list", "lm-vocab", "lm-audit", "lm-hash", "lm-verify", "lm-convert"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        for (int there = 0; there < 2; there++)
            for (size_t c = 0; c < sizeof commands / sizeof commands[0]; c++) {
                const char *path = path_in(dir, names[i]);
                const char *argv[] = {command_path(commands[c]), path, c >= 4 ? path_in(dir, "other") : NULL, NULL};
                unlink(path);
                if (there)
                    write_file(path, "GGUF\3\0\0\0", 8);
                struct output o = command_run(argv, dir);
                assert_true(o.code >= 1 && o.code <= 3);
                assert_clean(commands[c], &o.err);
                assert_clean(commands[c], &o.out);
                output_free(&o);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_reaches_the_terminal),
        cmocka_unit_test(streams_of_json_are_escaped),
        cmocka_unit_test(names_of_files_are_escaped),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
