/* --json of every command: one valid JSON value (or one a line), and every key
 * that appears in it is documented in the command's own help. */
#include "tests/files.h"

#include <ctype.h>
#include <libgen.h>

#include <jansson.h>

static char build[512]; /* where the commands are */

static char *output_of(const char *arguments, int *code)
{
    char line[1200], *text = NULL;
    size_t n = 0;

    snprintf(line, sizeof line, "{ PATH='%s':\"$PATH\"; LC_ALL=C; export LC_ALL; %s; } 2>/dev/null </dev/null", build, arguments);
    FILE *p = popen(line, "r");
    assert_non_null(p);
    if (getdelim(&text, &n, EOF, p) < 0) {
        free(text);
        text = strdup("");
    }
    int status = pclose(p);
    if (code)
        *code = WEXITSTATUS(status);
    return text;
}

/* A word of the help: between characters that a key cannot hold. */
static bool mentions(const char *help, const char *key)
{
    size_t n = strlen(key);

    for (const char *at = help; (at = strstr(at, key)); at += n) {
        bool begins = at == help || !(isalnum((unsigned char)at[-1]) || at[-1] == '_');
        if (begins && !(isalnum((unsigned char)at[n]) || at[n] == '_'))
            return true;
    }
    return false;
}

/* Objects whose keys are data: roles, names of metadata, kinds. */
static bool holds_data(const char *key)
{
    static const char *const maps[] = {"counts", "kinds", "metadata", "shapes", NULL};

    for (size_t i = 0; maps[i]; i++)
        if (strcmp(maps[i], key) == 0)
            return true;
    return false;
}

static size_t n_unknown;

static void check_keys(const char *command, const char *help, const json_t *v, const char *inside, int depth)
{
    const char *key;
    json_t *x;
    size_t i;

    if (depth > 30 || holds_data(inside))
        return;
    json_array_foreach(v, i, x)
        check_keys(command, help, x, inside, depth + 1);
    json_object_foreach((json_t *)v, key, x) {
        if (!mentions(help, key)) {
            print_error("%s --json: the help does not mention '%s'\n", command, key);
            n_unknown++;
        }
        check_keys(command, help, x, key, depth + 1);
    }
}

struct run { const char *command, *arguments; int code; bool lines; };

static const struct run runs[] = {
    {"lm-list", "--json samples/polish-5m", 0, false},
    {"lm-list", "--json --meta --fold samples/polish-5m", 0, false},
    {"lm-vocab", "--json --stats samples/polish-5m", 0, false},
    {"lm-tokenize", "--json samples/polish-5m 'Ala ma kota'", 0, false},
    {"lm-convert", "--json --dry-run samples/polish-5m /tmp/nowhere.gguf", 0, false},
    {"lm-quantize", "--json --dry-run --type Q4_K_M samples/polish-5m /tmp/nowhere.gguf", 0, false},
    {"lm-verify", "--json samples/polish-5m samples/polish-5m", 0, false},
    {"lm-generate", "--json -n 3 samples/polish-5m -p 'Dawno temu'", 0, true},
    {"lm-trace", "--json samples/polish-5m 'Ala ma kota'", 0, false},
    {"lm-audit", "--json --ctx 64 --vram h100 samples/polish-5m", 0, false},
    {"lm-audit", "--json --rules", 0, false},
    {"lm-audit", "--json --explain rows-zero", 0, false},
    {"lm-audit", "--json tests/fixtures/models/tiny-mixtral", 0, false},
    {"lm-diff", "--json tests/fixtures/models/tiny-llama tests/fixtures/models/tiny-llama-bias", 1, false},
    {"lm-hash", "--json tests/fixtures/models/tiny-llama-tied", 0, false},
};

/* lm-quantize's object is lm-convert's, and its help says so. */
static char *help_of(const char *command)
{
    char line[64];

    snprintf(line, sizeof line, "%s --help%s", command, strcmp(command, "lm-quantize") == 0 ? "; lm-convert --help" : "");
    return output_of(line, NULL);
}

static void check_run(const struct run *r)
{
    char line[600];
    int code;

    snprintf(line, sizeof line, "%s %s", r->command, r->arguments);
    char *text = output_of(line, &code), *help = help_of(r->command), *rest = text;
    if (code != r->code)
        fail_msg("%s: exit code %d, expected %d", line, code, r->code);
    do {
        json_error_t where;
        char *end = r->lines ? strchr(rest, '\n') : NULL;
        if (end)
            *end = 0;
        json_t *v = json_loads(rest, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &where);
        if (!v)
            fail_msg("%s: line %d: %s", line, where.line, where.text);
        check_keys(r->command, help, v, "", 0);
        json_decref(v);
        rest = end ? end + 1 : NULL;
    } while (rest && *rest);
    free(text);
    free(help);
}

static void test_every_key_is_documented(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++)
        check_run(&runs[i]);
    assert_int_equal(n_unknown, 0);
}

/* NO_COLOR, and output that is not a terminal: no escape anywhere. A narrow terminal changes tables, not JSON. */
static void test_plain(void **state)
{
    static const char *const lines[] = {"lm-list samples/polish-5m", "lm-audit --vram h100 samples/polish-5m", "lm-hash samples/polish-5m",
                                        "lm-diff samples/polish-5m tests/fixtures/models/tiny-llama", "lm-audit --rules"};

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char line[200];
        char *text = output_of(lines[i], NULL);
        assert_true(strlen(text) > 20);
        assert_null(strchr(text, '\033'));
        snprintf(line, sizeof line, "NO_COLOR=1 COLUMNS=60 TERM=xterm-256color %s", lines[i]);
        char *narrow = output_of(line, NULL);
        assert_null(strchr(narrow, '\033'));
        free(narrow);
        free(text);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_key_is_documented), cmocka_unit_test(test_plain)};
    char *path = realpath(argv[0], NULL);

    (void)argc;
    snprintf(build, sizeof build, "%s", path ? dirname(dirname(path)) : ".");
    free(path);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
