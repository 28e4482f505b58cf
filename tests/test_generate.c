/* lm-generate as people use it: at a terminal, in a pipe, as events. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "gpu/engine.h"
#include "libmodel/bytes.h"

#define SAMPLE "samples/polish-5m"
#define PROMPT "Pan Ignacy usiadł przy stole i"

static char command[PATH_MAX], template_file[] = "/tmp/test_generate.XXXXXX";

static int set_up(void **state)
{
    static const char text[] = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '\\n' }}{% endfor %}"
                               "{% if add_generation_prompt %}bot: {% endif %}";
    ssize_t n = readlink("/proc/self/exe", command, sizeof command - 20);
    int fd = mkstemp(template_file);

    (void)state;
    if (n <= 0 || fd < 0 || write(fd, text, sizeof text - 1) != (ssize_t)sizeof text - 1)
        return -1;
    close(fd);
    command[n] = '\0';
    for (int up = 0; up < 2; up++)
        *strrchr(command, '/') = '\0';
    strcat(command, "/lm-generate");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(template_file);
}

/* ---- in a pipe */

/* What it prints with arguments for the shell; the exit code to *code. Caller frees. */
static char *printed(int *code, const char *format, ...)
{
    char args[4000], line[PATH_MAX + 4200], *out = NULL;
    size_t n = 0;
    va_list ap;

    va_start(ap, format);
    vsnprintf(args, sizeof args, format, ap);
    va_end(ap);
    snprintf(line, sizeof line, "'%s' " SAMPLE " -q --device cpu %s", command, args);
    FILE *f = popen(line, "r"), *to = open_memstream(&out, &n);
    assert_non_null(f);
    assert_non_null(to);
    for (int c; (c = fgetc(f)) != EOF;)
        fputc(c, to);
    fclose(to);
    int status = pclose(f);
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return out;
}

/* Its events; the text of all tokens to text, that of the end is returned, borrowed from *events. */
static const char *events_of(const char *args, json_t **events, char *text, size_t size)
{
    int code;
    char *all = printed(&code, "--json %s", args), *rest = all;
    json_t *end = NULL;

    assert_int_equal(code, 0);
    *events = json_array();
    *text = '\0';
    for (char *line; (line = strsep(&rest, "\n")) && *line;) {
        json_t *o = json_loads(line, 0, NULL);
        assert_non_null(o);
        json_array_append_new(*events, o);
        const char *kind = json_string_value(json_object_get(o, "event"));
        if (strcmp(kind, "token") == 0)
            snprintf(text + strlen(text), size - strlen(text), "%s", json_string_value(json_object_get(o, "text")));
        end = strcmp(kind, "end") == 0 ? o : end;
    }
    free(all);
    assert_non_null(end);
    return json_string_value(json_object_get(end, "text"));
}

static void stop_texts_are_never_shown(void **state)
{
    static const char *const stops[] = {"ie ma", "panie, n", ":\n", " ", "Nie, p", "zzz", "\n — "};
    char whole[2000], args[400], text[2000];
    json_t *events;

    (void)state;
    snprintf(whole, sizeof whole, "%s", events_of("-n 30 -p '" PROMPT "'", &events, text, sizeof text));
    json_decref(events);
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        snprintf(args, sizeof args, "-n 30 -p '" PROMPT "' --stop 'zzzz' --stop '%s'", stops[i]);
        const char *end = events_of(args, &events, text, sizeof text), *at = strstr(whole, stops[i]);
        size_t n = at ? (size_t)(at - whole) : strlen(whole);
        assert_int_equal(strlen(end), n);
        assert_memory_equal(end, whole, n);
        assert_memory_equal(text, end, strlen(text)); /* shown as it came; a rest may be in the end alone */
        assert_true(strlen(text) <= n);
        json_decref(events);
    }
}

/* Far above any sense a vocabulary of bytes gives bytes that are no text. */
static void output_is_always_text(void **state)
{
    unsigned replaced = 0;

    (void)state;
    for (unsigned seed = 0; seed < 12; seed++) {
        char args[200], text[4000];
        json_t *events;
        int code;
        snprintf(args, sizeof args, "-n 24 --temp 9 --ignore-eos --seed %u -p Noc", seed);
        const char *end = events_of(args, &events, text, sizeof text);
        char *plain = printed(&code, "%s", args);
        assert_true(lm_utf8_valid(lm_span_str(plain)));
        assert_string_equal(plain, end);
        assert_memory_equal(text, end, strlen(text));
        replaced += strstr(end, "\xef\xbf\xbd") != NULL;
        free(plain);
        json_decref(events);
    }
    assert_true(replaced > 0);
}

static void a_seed_gives_one_text(void **state)
{
    int code;
    char *a = printed(&code, "-n 20 --temp 0.9 --seed 3 --threads 1 -p Noc"), *b;

    (void)state;
    b = printed(&code, "-n 20 --temp 0.9 --seed 3 --threads 2 -p Noc");
    assert_string_equal(a, b);
    free(b);
    b = printed(&code, "-n 20 --temp 0.9 --seed 4 -p Noc");
    assert_string_not_equal(a, b);
    free(a);
    free(b);
}

/* Against the whole pass in double. */
static void logprobs_are_those_of_the_truth(void **state)
{
    struct lm_engine_options o = {"cpu", LM_MATH_F64, 1, 64};
    struct lm_model *m;
    struct lm_engine *g;
    struct lm_session *s;
    struct lm_err e;
    char text[2000];
    json_t *events, *t, *x;
    int32_t ids[64];
    size_t n = 0, i;

    (void)state;
    events_of("-n 12 --logprobs 3 -p '" PROMPT "'", &events, text, sizeof text);
    json_array_foreach(json_object_get(json_array_get(events, 0), "ids"), i, x)
        ids[n++] = (int32_t)json_integer_value(x);
    assert_int_equal(lm_model_open(&m, SAMPLE, &e), 0);
    assert_int_equal(lm_engine_open(&g, m, &o, &e), 0);
    assert_int_equal(lm_session_open(&s, g, &e), 0);
    size_t vocab = lm_engine_config(g)->vocab_size;
    float *logits = malloc(vocab * sizeof *logits);
    assert_int_equal(lm_session_eval(s, ids, n, LM_LOGITS_LAST, logits, &e), 0);
    for (i = 1; i <= 12; i++) {
        t = json_array_get(events, i);
        int32_t id = (int32_t)json_integer_value(json_object_get(t, "id"));
        assert_true(fabs(json_number_value(json_object_get(t, "logprob")) - lm_log_softmax_at(logits, vocab, (size_t)id)) < 1e-5);
        json_t *likeliest = json_object_get(t, "likeliest");
        assert_int_equal(json_array_size(likeliest), 3);
        assert_int_equal(json_integer_value(json_object_get(json_array_get(likeliest, 0), "id")), id); /* greedy */
        assert_int_equal(lm_session_eval(s, &id, 1, LM_LOGITS_LAST, logits, &e), 0);
    }
    free(logits);
    lm_session_close(s);
    lm_engine_close(g);
    lm_model_close(m);
    json_decref(events);
}

static void what_does_not_fit_is_told(void **state)
{
    int code;
    char *text;

    (void)state;
    text = printed(&code, "-n 5 --ctx 4 -p '" PROMPT "' 2>&1");
    assert_int_equal(code, 2);
    assert_non_null(strstr(text, "the prompt has 8 tokens, the context 4"));
    free(text);
    text = printed(&code, "-n -1 --ignore-eos --ctx 12 -p '" PROMPT "' 2>&1");
    assert_int_equal(code, 0);
    assert_non_null(strstr(text, "the context of 12 positions is full"));
    free(text);
    text = printed(&code, "-n 20 --ignore-eos --ctx 12 --shift -p '" PROMPT "' 2>&1");
    assert_int_equal(code, 0);
    assert_null(strstr(text, "is full"));
    free(text);
    text = printed(&code, "-i --template %s -n 4 --ctx 20 2>&1 <README.md", template_file); /* no one to tell */
    assert_int_equal(code, 2);
    free(text);
}

/* ---- at a terminal */

struct terminal { int fd; pid_t pid; char seen[20000]; size_t n, from; };

static void start_at(struct terminal *t, const char *options)
{
    char line[PATH_MAX + 400];
    struct winsize size = {.ws_row = 24, .ws_col = 80};

    *t = (struct terminal){.fd = posix_openpt(O_RDWR | O_NOCTTY)};
    assert_true(t->fd >= 0 && grantpt(t->fd) == 0 && unlockpt(t->fd) == 0);
    ioctl(t->fd, TIOCSWINSZ, &size);
    snprintf(line, sizeof line, "exec '%s' " SAMPLE " --device cpu -i --template %s %s", command, template_file, options);
    t->pid = fork();
    if (t->pid == 0) {
        setsid();
        int tty = open(ptsname(t->fd), O_RDWR); /* becomes the terminal that Ctrl-C comes from */
        for (int i = 0; i < 3; i++)
            dup2(tty, i);
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    assert_true(t->pid > 0);
}

/* Waits until `what` is shown behind what was waited for last; NULL: until it ends. */
static void wait_for(struct terminal *t, const char *what)
{
    struct pollfd p = {t->fd, POLLIN, 0};
    char *at = NULL;

    while (!what || !(at = strstr(t->seen + t->from, what))) {
        ssize_t n = poll(&p, 1, 60000) == 1 ? read(t->fd, t->seen + t->n, sizeof t->seen - 1 - t->n) : -1;
        if (n <= 0 && !what)
            return;
        if (n <= 0)
            fail_msg("no \"%s\" came after: %s", what, t->seen + t->from);
        t->n += (size_t)n;
    }
    t->from = (size_t)(at - t->seen) + strlen(what);
}

/* More than what is there now. */
static void wait_for_more(struct terminal *t)
{
    struct pollfd p = {t->fd, POLLIN, 0};

    if (t->from == t->n) {
        assert_int_equal(poll(&p, 1, 60000), 1);
        ssize_t n = read(t->fd, t->seen + t->n, sizeof t->seen - 1 - t->n);
        assert_true(n > 0);
        t->n += (size_t)n;
    }
}

static void type(struct terminal *t, const char *text)
{
    assert_int_equal(write(t->fd, text, strlen(text)), strlen(text));
}

static int end_of(struct terminal *t)
{
    int status;

    wait_for(t, NULL);
    close(t->fd);
    assert_int_equal(waitpid(t->pid, &status, 0), t->pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Answers that would never end, twice; then the conversation, by Ctrl-D. */
static void ctrl_c_ends_the_answer(void **state)
{
    struct terminal t;

    (void)state;
    start_at(&t, "-n -1 --shift --ignore-eos --ctx 60");
    for (int i = 0; i < 3; i++) {
        wait_for(&t, "> ");
        type(&t, "Kto to?\n");
        wait_for(&t, "Kto to?\r\n");
        wait_for_more(&t);
        type(&t, "\003");
        wait_for(&t, "generated ");
    }
    wait_for(&t, "> ");
    type(&t, "\004");
    assert_int_equal(end_of(&t), 0);
}

static void ctrl_c_drops_the_line(void **state)
{
    struct terminal t;

    (void)state;
    start_at(&t, "-n 2");
    wait_for(&t, "> ");
    type(&t, "never sent");
    wait_for(&t, "sent");
    type(&t, "\003");
    wait_for(&t, "once more");
    wait_for(&t, "> ");
    type(&t, "/prompt\n");
    wait_for(&t, "> ");
    assert_null(strstr(t.seen, "user: never"));
    type(&t, "\003");
    wait_for(&t, "once more");
    wait_for(&t, "> ");
    type(&t, "\003");
    assert_int_equal(end_of(&t), 0);
}

/* What cannot be asked is forgotten, and one can go on. */
static void a_question_too_long_is_forgotten(void **state)
{
    struct terminal t;

    (void)state;
    start_at(&t, "-n 2 --ctx 20");
    wait_for(&t, "> ");
    type(&t, "Ala ma kota i psa, a Ola ma dom i ogród i sad, i jeszcze więcej rzeczy.\n");
    wait_for(&t, "the question is forgotten");
    wait_for(&t, "> ");
    type(&t, "Kto?\n");
    wait_for(&t, "generated 2 tokens");
    wait_for(&t, "> ");
    type(&t, "/prompt\n");
    wait_for(&t, "user: Kto?");
    assert_null(strstr(t.seen, "user: Ala"));
    wait_for(&t, "> ");
    type(&t, "/quit\n");
    assert_int_equal(end_of(&t), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_texts_are_never_shown), cmocka_unit_test(output_is_always_text),
        cmocka_unit_test(a_seed_gives_one_text), cmocka_unit_test(logprobs_are_those_of_the_truth),
        cmocka_unit_test(what_does_not_fit_is_told), cmocka_unit_test(ctrl_c_ends_the_answer),
        cmocka_unit_test(ctrl_c_drops_the_line), cmocka_unit_test(a_question_too_long_is_forgotten)};

    setenv("OMP_WAIT_POLICY", "passive", 1); /* of the commands: threads that wait must not spin where others work */
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
