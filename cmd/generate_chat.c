/* Conversations, through the checkpoint's own chat template. */
#include "cmd/generate.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "libmodel/parse/json.h"

struct generate_chat {
    struct lm_template *template;
    json_t *vars;      /* what the template sees */
    json_t *messages;  /* vars["messages"], borrowed */
};

/* ---- opening */

static int nomem(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "no memory for the conversation");
}

static int read_template(struct generate_chat *c, struct generation *g, struct lm_err *e)
{
    struct lm_span text = g->l.vocab->chat_template;
    char *own = NULL;
    size_t n;
    int code;

    if (g->o.template_file) {
        if (cli_read_text(&own, &n, NULL, g->o.template_file, e) != 0)
            return -1;
        text = lm_span_of(own, n);
    }
    if (text.size == 0)
        return lm_err_set(e, LM_MISSING, "%s carries no chat template; give one with --template FILE, or continue a "
                          "text with -p alone", lm_model_path(g->l.model));
    code = lm_template_new(&c->template, text, e);
    free(own);
    return code < 0 ? lm_err_prefix(e, "%s", g->o.template_file ? g->o.template_file : lm_model_path(g->l.model)) : 0;
}

static void set_token(struct generate_chat *c, const struct lm_vocab *v, const char *name, int64_t id)
{
    if (id >= 0 && (size_t)id < v->n_pieces)
        json_object_set_new(c->vars, name, cli_json_str(v->pieces[id].text));
}

/* --messages: a list of messages, or an object with messages and whatever else the template wants. */
static int read_messages(struct generate_chat *c, const char *path, struct lm_err *e)
{
    char *text;
    size_t n;

    if (cli_read_text(&text, &n, NULL, path, e) != 0)
        return -1;
    json_t *j = lm_json_parse(lm_span_of(text, n), path, e);
    free(text);
    if (!j)
        return -1;
    if (json_is_object(j))
        json_object_update(c->vars, j);
    else
        json_object_set(c->vars, "messages", j);
    json_decref(j);
    if (!json_is_array(json_object_get(c->vars, "messages")))
        return lm_err_set(e, LM_USAGE, "%s: expected a list of messages, or an object with \"messages\"", path);
    return 0;
}

/* --template-arg NAME=VALUE: JSON when it is, else text. */
static int set_argument(struct generate_chat *c, const char *arg, struct lm_err *e)
{
    const char *equals = strchr(arg, '=');
    char name[100];

    if (!equals || equals == arg || (size_t)(equals - arg) >= sizeof name)
        return lm_err_set(e, LM_USAGE, "--template-arg takes NAME=VALUE, not %s", arg);
    memcpy(name, arg, (size_t)(equals - arg));
    name[equals - arg] = 0;
    json_t *v = json_loads(equals + 1, JSON_DECODE_ANY, NULL);
    if (!v)
        v = cli_json_str(lm_span_str(equals + 1));
    return json_object_set_new(c->vars, name, v) == 0 ? 0 : nomem(e);
}

static int set_variables(struct generate_chat *c, struct generation *g, struct lm_err *e)
{
    const struct lm_vocab *v = g->l.vocab;

    c->vars = json_pack("{s:[], s:b, s:n, s:n}", "messages", "add_generation_prompt", 1, "tools", "documents");
    if (!c->vars)
        return nomem(e);
    set_token(c, v, "bos_token", v->bos_id);
    set_token(c, v, "eos_token", v->eos_id);
    set_token(c, v, "unk_token", v->unk_id);
    set_token(c, v, "pad_token", v->pad_id);
    if (g->o.messages && read_messages(c, g->o.messages, e) != 0)
        return -1;
    for (size_t i = 0; i < g->o.template_args.n; i++)
        if (set_argument(c, g->o.template_args.items[i], e) != 0)
            return -1;
    c->messages = json_object_get(c->vars, "messages");
    return 0;
}

int generate_chat_add(struct generate_chat *c, const char *role, struct lm_span text, struct lm_err *e)
{
    json_t *m = json_pack("{s:s, s:o}", "role", role, "content", cli_json_str(text));

    return m && json_array_append_new(c->messages, m) == 0 ? 0 : nomem(e);
}

int generate_chat_open(struct generate_chat **out, struct generation *g, struct lm_err *e)
{
    struct generate_chat *c = calloc(1, sizeof *c);

    *out = c;
    if (!c)
        return nomem(e);
    if (read_template(c, g, e) != 0 || set_variables(c, g, e) != 0)
        return -1;
    return g->o.system ? generate_chat_add(c, "system", lm_span_str(g->o.system), e) : 0;
}

void generate_chat_free(struct generate_chat *c)
{
    if (!c)
        return;
    lm_template_free(c->template);
    json_decref(c->vars);
    free(c);
}

/* ---- rendering */

static int render(struct generate_chat *c, struct generation *g, struct lm_err *e)
{
    char *vars = json_dumps(c->vars, 0);

    if (!vars)
        return nomem(e);
    free(g->text);
    g->text = NULL;
    int code = lm_template_render(c->template, lm_span_str(vars), NULL, &g->text, &g->n_text, e);
    free(vars);
    if (code != 0)
        return -1;
    g->prompt.n = 0; /* the template writes BOS itself where the model wants it */
    return lm_tokenizer_encode(g->l.tok, lm_span_of(g->text, g->n_text), LM_ENCODE_SPECIAL, &g->prompt, e);
}

static bool is_system(const json_t *m)
{
    const char *role = json_string_value(json_object_get(m, "role"));

    return role && (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0);
}

/* Drops the oldest exchange behind the system message; false when only the last question is left. */
static bool drop_oldest(struct generate_chat *c)
{
    size_t first = json_array_size(c->messages) > 0 && is_system(json_array_get(c->messages, 0));

    if (json_array_size(c->messages) < first + 3)
        return false;
    json_array_remove(c->messages, first);
    json_array_remove(c->messages, first);
    return true;
}

int generate_chat_render(struct generate_chat *c, struct generation *g, struct lm_err *e)
{
    uint32_t ctx = g->l.engine ? lm_engine_ctx_len(g->l.engine) : UINT32_MAX;
    size_t room = g->o.n > 0 && (uint32_t)g->o.n < ctx / 2 ? (size_t)g->o.n : ctx / 4, dropped = 0;

    if (render(c, g, e) != 0)
        return -1;
    while (g->prompt.n + room > ctx && drop_oldest(c)) {
        dropped++;
        if (render(c, g, e) != 0)
            return -1;
    }
    if (dropped == 1)
        cli_note("%s: the conversation no longer fits into %u positions: its oldest exchange is forgotten", cli_name(),
                 ctx);
    else if (dropped)
        cli_note("%s: the conversation no longer fits into %u positions: its %zu oldest exchanges are forgotten",
                 cli_name(), ctx, dropped);
    return 0;
}

/* ---- talking */

enum { LINE_END, LINE_TEXT, LINE_DROPPED, ASKED = 2 /* in cli_stop: by Ctrl-C */ };

/* Ctrl-C ends an answer or drops a line, not the conversation; a second one before the first was heeded ends all. */
static void on_interrupt(int signal_number)
{
    if (cli_stop) {
        signal(signal_number, SIG_DFL);
        raise(signal_number);
    }
    cli_stop = ASKED;
}

/* Whether signals end the waiting for a line. */
static void let_interrupt(bool yes)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction a;

    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        sigaction(signals[i], NULL, &a);
        a.sa_flags = yes ? a.sa_flags & ~(int)SA_RESTART : a.sa_flags | (int)SA_RESTART;
        sigaction(signals[i], &a, NULL);
    }
}

static void catch_signals(void)
{
    struct sigaction a = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESTART};

    cli_catch_signals();
    sigaction(SIGINT, &a, NULL);
}

static bool was_asked_to_stop(void)
{
    bool asked = cli_stop == ASKED;

    cli_stop = asked ? 0 : cli_stop;
    return asked;
}

/* A line from standard input, lines that end in a backslash joined; LINE_END at the end of input. */
static int read_line(char **line, size_t *n, struct lm_err *e)
{
    char *more = NULL;
    size_t size = 0;
    ssize_t got;

    *n = 0;
    for (;;) {
        if (isatty(0) && isatty(1)) {
            fputs(*n ? "… " : "> ", stdout);
            fflush(stdout);
        }
        let_interrupt(true);
        got = cli_stop ? -1 : getline(&more, &size, stdin);
        let_interrupt(false);
        if (got < 0)
            break;
        while (got > 0 && (more[got - 1] == '\n' || more[got - 1] == '\r'))
            got--;
        char *grown = realloc(*line, *n + (size_t)got + 2);
        if (!grown) {
            free(more);
            return nomem(e);
        }
        *line = grown;
        memcpy(grown + *n, more, (size_t)got);
        *n += (size_t)got;
        if (got == 0 || more[got - 1] != '\\')
            break;
        grown[*n - 1] = '\n';
    }
    free(more);
    if (got < 0 && was_asked_to_stop()) {
        clearerr(stdin);
        return LINE_DROPPED;
    }
    return got < 0 && (*n == 0 || cli_stop) ? LINE_END : LINE_TEXT;
}

static void forget(struct generate_chat *c, size_t from)
{
    while (json_array_size(c->messages) > from)
        json_array_remove(c->messages, json_array_size(c->messages) - 1);
}

/* "/reset" and its like. 1: it was one; 2: leave. */
static int command(struct generate_chat *c, struct generation *g, const char *line, struct lm_err *e)
{
    size_t n = json_array_size(c->messages);

    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0)
        return 2;
    if (strcmp(line, "/reset") == 0) {
        forget(c, n > 0 && is_system(json_array_get(c->messages, 0)));
    } else if (strcmp(line, "/undo") == 0) {
        forget(c, n >= 2 && !is_system(json_array_get(c->messages, n - 2)) ? n - 2 : n);
    } else if (strncmp(line, "/system ", 8) == 0) {
        forget(c, 0);
        return generate_chat_add(c, "system", lm_span_str(line + 8), e) != 0 ? -1 : 1;
    } else if (strcmp(line, "/prompt") == 0) {
        generate_put_text(g->text ? g->text : "", g->n_text);
        putchar('\n');
    } else if (line[0] == '/' && line[1] >= 'a' && line[1] <= 'z' && !strchr(line, ' ')) {
        cli_note("commands: /reset forgets all, /undo the last exchange, /system TEXT begins anew, /prompt shows what "
                 "the model read, /quit; a line that ends in \\ goes on");
    } else {
        return 0;
    }
    return 1;
}

static int ask(struct generate_chat *c, struct generation *g, struct lm_span question, struct lm_err *e)
{
    if (generate_chat_add(c, "user", question, e) != 0 || generate_chat_render(c, g, e) != 0)
        return -1;
    if (g->o.json)
        generate_prompt_out(g);
    g->decoder = (struct lm_decoder){.t = g->l.tok, .started = true};
    return generate_read(g, e);
}

/* A question that cannot be asked is forgotten: too long, refused by the template, or taken back. Who is not at a
 * terminal learns it by the exit code. */
static int answer(struct generate_chat *c, struct generation *g, struct lm_span question, struct lm_err *e)
{
    size_t before = json_array_size(c->messages);

    if (ask(c, g, question, e) != 0) {
        bool taken_back = e->code == LM_INTERRUPTED && was_asked_to_stop();
        if (!taken_back && (!isatty(0) || e->code == LM_INTERRUPTED || e->code == LM_NOMEM))
            return -1;
        forget(c, before);
        cli_note("%s: %s; the question is forgotten", cli_name(), e->text);
        return 0;
    }
    if (generate_go_on(g, e) != 0)
        return -1;
    if (!g->o.json)
        putchar('\n');
    generate_stats(g);
    was_asked_to_stop();
    return generate_chat_add(c, "assistant", lm_span_of(g->said, g->n_said), e);
}

int generate_chat_talk(struct generate_chat *c, struct generation *g, struct lm_err *e)
{
    char *line = NULL;
    size_t n, n_dropped = 0; /* in a row */
    int code = 0, got;

    catch_signals();
    while (code == 0 && (got = read_line(&line, &n, e)) != LINE_END && !cli_stop) {
        n_dropped = got == LINE_DROPPED ? n_dropped + 1 : 0;
        if (got == LINE_DROPPED && isatty(1))
            putchar('\n');
        if (n_dropped == 2)
            break;
        if (got == LINE_DROPPED)
            cli_note("Ctrl-C once more, or Ctrl-D, ends the conversation");
        code = got < 0 ? -1 : 0;
        if (code < 0 || n == 0 || got == LINE_DROPPED)
            continue;
        line[n] = 0;
        int done = command(c, g, line, e);
        if (done == 2)
            break;
        if (done == 0)
            code = answer(c, g, lm_span_of(line, n), e);
        if (done < 0)
            code = -1;
    }
    free(line);
    return code;
}
