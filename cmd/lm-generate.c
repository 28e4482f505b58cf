/* lm-generate: continues a text. */
#include "cmd/cli_engine.h"

#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "libmodel/parse/json.h"

struct options {
    const char *prompt, *file;
    int n;
    double temp, top_p, min_p;
    int top_k;
    uint64_t seed;          /* NO_SEED: a random one */
    struct cli_engine_opts engine;
    bool special, echo, json, quiet, ignore_eos;
};

enum { MAX_ENDS = 16, CHUNK = 256 };
#define NO_SEED UINT64_MAX

struct generation {
    struct options o;
    struct cli_loaded l;
    char *text;             /* the prompt */
    size_t n_text;
    struct lm_ids prompt, out;
    int32_t ends[MAX_ENDS]; /* ids that end a text */
    size_t n_ends;
    struct lm_sampling sampling;
    float *logits;
    struct lm_decoder decoder;
    char *piece;            /* room for what one id adds */
    size_t piece_size;
    char *said;             /* whole continuation, for --json */
    size_t n_said;
    const char *stopped;    /* why it ended */
    double prompt_seconds, seconds;
};

/* ---- which ids end a text */

static void add_end(struct generation *g, int64_t id)
{
    if (id >= 0 && id <= INT32_MAX && g->n_ends < MAX_ENDS)
        g->ends[g->n_ends++] = (int32_t)id;
}

static void add_ends_of_json(struct generation *g, const json_t *v)
{
    size_t i;
    json_t *item;

    if (json_is_integer(v))
        add_end(g, json_integer_value(v));
    json_array_foreach(v, i, item)
        add_end(g, json_is_integer(item) ? json_integer_value(item) : -1);
}

/* The vocabulary names one; generation_config.json and GGUF may name more. */
static void find_ends(struct generation *g)
{
    uint64_t eot = UINT64_MAX;
    struct lm_span text;
    struct lm_err e;

    if (g->o.ignore_eos)
        return;
    add_end(g, g->l.vocab->eos_id);
    add_end(g, lm_engine_config(g->l.engine)->eos_id);
    if (lm_meta_get_u64(lm_model_meta(g->l.model), "tokenizer.ggml.eot_token_id", &eot, &e) == 1 && eot <= INT32_MAX)
        add_end(g, (int64_t)eot);
    if (lm_model_sidecar(g->l.model, "generation_config.json", &text, &e) != 1)
        return;
    json_t *config = lm_json_parse(text, "generation_config.json", &e);
    add_ends_of_json(g, json_object_get(config, "eos_token_id"));
    json_decref(config);
}

static bool is_end(const struct generation *g, int32_t id)
{
    for (size_t i = 0; i < g->n_ends; i++)
        if (g->ends[i] == id)
            return true;
    return false;
}

/* ---- output */

/* On a terminal only what cannot command it. */
static void put_text(const char *s, size_t n)
{
    if (!isatty(1)) {
        fwrite(s, 1, n, stdout);
        return;
    }
    while (n > 0) {
        size_t k = 0;
        while (k < n && s[k] != '\n' && s[k] != '\t')
            k++;
        fputs(cli_safe(lm_span_of(s, k)), stdout);
        if (k < n)
            putchar(s[k++]);
        s += k;
        n -= k;
    }
}

static int keep_text(struct generation *g, const char *s, size_t n, struct lm_err *e)
{
    char *grown = realloc(g->said, g->n_said + n + 1);

    if (!grown)
        return lm_err_set(e, LM_NOMEM, "no memory for the text");
    memcpy(grown + g->n_said, s, n);
    g->said = grown;
    g->n_said += n;
    return 0;
}

/* id -1: what was held back of an unfinished character. */
static int say(struct generation *g, int32_t id, struct lm_err *e)
{
    if (id >= 0 && (size_t)id >= g->l.vocab->n_pieces)
        return 0; /* rows that pad the embedding have no text */
    size_t n = lm_decoder_push(&g->decoder, id, g->piece, g->piece_size);
    if (g->o.json)
        return keep_text(g, g->piece, n, e);
    put_text(g->piece, n);
    return fflush(stdout) == 0 ? 0 : 1;
}

static int keep_id(struct lm_ids *l, int32_t id, struct lm_err *e)
{
    if (l->n == l->capacity) {
        size_t capacity = l->capacity ? 2 * l->capacity : 64;
        int32_t *ids = realloc(l->ids, capacity * sizeof *ids);
        if (!ids)
            return lm_err_set(e, LM_NOMEM, "no memory for %zu ids", capacity);
        l->ids = ids;
        l->capacity = capacity;
    }
    l->ids[l->n++] = id;
    return 0;
}

/* ---- running */

static int read_prompt(struct generation *g, const struct lm_ids *ids, uint32_t ctx, struct lm_err *e)
{
    if (ids->n == 0)
        return lm_err_set(e, LM_USAGE, "the prompt is empty, and this checkpoint asks for no token before a text");
    if (ids->n > ctx)
        return lm_err_set(e, LM_USAGE, "the prompt has %zu tokens, the context %u; shorten it or raise --ctx", ids->n,
                          ctx);
    for (size_t at = 0; at < ids->n; at += CHUNK) {
        size_t n = ids->n - at < CHUNK ? ids->n - at : CHUNK;
        bool last = at + n == ids->n;
        if (cli_stop)
            return lm_err_set(e, LM_INTERRUPTED, "interrupted while reading the prompt");
        if (lm_session_eval(g->l.session, ids->ids + at, n, last ? LM_LOGITS_LAST : LM_LOGITS_NONE,
                            last ? g->logits : NULL, e) != 0)
            return -1;
    }
    return 0;
}

static int generate(struct generation *g, struct lm_err *e)
{
    uint32_t vocab = lm_engine_config(g->l.engine)->vocab_size, ctx = lm_engine_ctx_len(g->l.engine);

    g->stopped = "length";
    for (int i = 0; g->o.n < 0 || i < g->o.n; i++) {
        if (cli_stop) {
            g->stopped = "interrupted";
            break;
        }
        int32_t id = lm_sample(&g->sampling, g->logits, vocab);
        if (is_end(g, id)) {
            g->stopped = "eos";
            break;
        }
        int said = keep_id(&g->out, id, e) != 0 ? -1 : say(g, id, e);
        if (said < 0)
            return -1;
        if (said > 0 || i + 1 == g->o.n)
            break;
        if (lm_session_n_past(g->l.session) >= ctx) {
            g->stopped = "context";
            break;
        }
        if (lm_session_eval(g->l.session, &id, 1, LM_LOGITS_LAST, g->logits, e) != 0)
            return -1;
    }
    return say(g, -1, e) < 0 ? -1 : 0;
}

static int choose_seed(struct generation *g, struct lm_err *e)
{
    uint32_t random; /* short enough to be typed again */

    if (g->o.seed == NO_SEED) {
        if (getrandom(&random, sizeof random, 0) < 0)
            return lm_err_errno(e, "cannot get a random seed");
        g->o.seed = random;
    }
    g->sampling.state = g->o.seed;
    return 0;
}

static int check_options(struct generation *g, struct lm_err *e)
{
    const struct options *o = &g->o;

    if (o->n < -1)
        return lm_err_set(e, LM_USAGE, "-n is a number of tokens, or -1 for as many as fit, not %d", o->n);
    if (o->temp < 0 || o->top_k < 0 || o->top_p <= 0 || o->top_p > 1 || o->min_p < 0 || o->min_p > 1)
        return lm_err_set(e, LM_USAGE, "--temp and --top-k are 0 or more, --top-p is in (0, 1], --min-p in [0, 1]");
    g->sampling = (struct lm_sampling){.temperature = (float)o->temp, .top_k = (uint32_t)o->top_k,
                                       .top_p = (float)o->top_p, .min_p = (float)o->min_p};
    return choose_seed(g, e);
}

/* As many positions as can be used: the trained context bounds them unless --ctx says more. */
static uint64_t positions(const struct generation *g, const struct lm_config *c)
{
    uint64_t most = c->ctx_len < 4096 ? c->ctx_len : 4096;
    uint64_t need = g->prompt.n + (g->o.n > 0 ? (uint64_t)g->o.n : 1);

    if (g->o.n >= 0)
        most = need < c->ctx_len ? need : c->ctx_len;
    return most > 0 ? most : 1;
}

static int prepare(struct generation *g, const char *path, struct lm_err *e)
{
    struct lm_config config;

    if (cli_read_text(&g->text, &g->n_text, g->o.prompt, g->o.file, e) != 0 || cli_load(&g->l, path, true, e) != 0)
        return -1;
    if (cli_encode(&g->l, lm_span_of(g->text, g->n_text), g->o.special ? LM_ENCODE_SPECIAL : 0, &g->prompt, e) != 0)
        return -1;
    const char *why = "no config";
    int found = lm_config_read(&config, g->l.model, &why, e);
    if (found < 0)
        return -1;
    if (found == 0)
        return lm_err_set(e, LM_UNSUPPORTED, "%s cannot be run: %s", path, why);
    if (cli_start(&g->l, &g->o.engine, positions(g, &config), e) != 0)
        return -1;
    g->piece_size = lm_tokenizer_max_bytes(g->l.tok) + 16;
    g->piece = malloc(g->piece_size);
    g->logits = malloc(config.vocab_size * sizeof *g->logits);
    if (!g->piece || !g->logits)
        return lm_err_set(e, LM_NOMEM, "no memory for the logits");
    find_ends(g);
    g->decoder = (struct lm_decoder){.t = g->l.tok, .started = g->n_text > 0};
    return 0;
}

static void print_stats(const struct generation *g)
{
    char device[200];

    if (strcmp(g->stopped, "context") == 0)
        cli_note("%s: stopped because the context of %u positions is full", cli_name(),
                 lm_engine_ctx_len(g->l.engine));
    if (g->o.quiet)
        return;
    lm_engine_describe(g->l.engine, device, sizeof device);
    if (!g->o.json && isatty(1) && isatty(2))
        fputc('\n', stderr);
    cli_note("prompt %zu tokens, %.1f tokens/s; generated %zu tokens, %.1f tokens/s; %s", g->prompt.n,
             (double)g->prompt.n / g->prompt_seconds, g->out.n,
             g->seconds > 0 ? (double)g->out.n / g->seconds : 0, device);
    if (g->sampling.temperature > 0)
        cli_note("the same text again: --seed %llu", (unsigned long long)g->o.seed);
}

static json_t *ids_json(const struct lm_ids *l)
{
    json_t *a = json_array();

    for (size_t i = 0; i < l->n; i++)
        json_array_append_new(a, json_integer(l->ids[i]));
    return a;
}

static int print_json(const struct generation *g)
{
    json_t *o = json_object();

    json_object_set_new(o, "prompt_ids", ids_json(&g->prompt));
    json_object_set_new(o, "ids", ids_json(&g->out));
    json_object_set_new(o, "text", cli_json_str(lm_span_of(g->said, g->n_said)));
    json_object_set_new(o, "stopped", json_string(g->stopped));
    return cli_json_print(o);
}

static int run(struct generation *g, const char *path, struct lm_err *e)
{
    if (check_options(g, e) != 0 || prepare(g, path, e) != 0)
        return -1;
    cli_catch_signals();
    double t0 = cli_now();
    if (read_prompt(g, &g->prompt, lm_engine_ctx_len(g->l.engine), e) != 0)
        return -1;
    g->prompt_seconds = cli_now() - t0;
    if (g->o.echo && !g->o.json)
        put_text(g->text, g->n_text);
    t0 = cli_now();
    if (generate(g, e) != 0)
        return -1;
    g->seconds = cli_now() - t0;
    if (g->o.json)
        print_json(g);
    else if (isatty(1))
        putchar('\n');
    print_stats(g);
    return 0;
}

#define AT(field) offsetof(struct options, field)
static const struct cli_opt opts[] = {
    {"prompt", 'p', CLI_STRING, "TEXT", AT(prompt), "The text to continue; - reads it from standard input.", NULL},
    {"file", 'f', CLI_STRING, "FILE", AT(file), "Take the text from a file, exactly as it is (- for standard input).",
     NULL},
    {"n", 'n', CLI_INT, "N", AT(n), "Tokens to generate at most (default 128); -1: until the text or the context ends.",
     NULL},
    {"temp", 't', CLI_REAL, "T", AT(temp), "Temperature of sampling (default 0: the likeliest token every time).", NULL},
    {"top-k", 0, CLI_INT, "K", AT(top_k), "Sample among the K likeliest tokens (default 0: all).", NULL},
    {"top-p", 0, CLI_REAL, "P", AT(top_p),
     "Sample among the likeliest tokens that make up this share of the probability (default 1).", NULL},
    {"min-p", 0, CLI_REAL, "P", AT(min_p),
     "Leave out tokens less likely than this share of the likeliest (default 0).", NULL},
    {"seed", 's', CLI_UINT64, "N", AT(seed), "Seed of sampling; the same seed gives the same text (default: random, told).",
     NULL},
    CLI_ENGINE_ROWS(AT(engine)),
    {"math", 0, CLI_CHOICE, NULL, AT(engine.math),
     "Products in f32 (exact) or with rounded activations (fast; tf32 and bf16 on a GPU); auto (default) is fast when "
     "most weights are block-quantized and exact otherwise.", cli_maths},
    {"ctx", 'c', CLI_SIZE, "N", AT(engine.ctx), "Positions to provide for (default: what the text and -n need).", NULL},
    {"special", 0, CLI_FLAG, NULL, AT(special), "Read control tokens such as </s> in the text as tokens.", NULL},
    {"ignore-eos", 0, CLI_FLAG, NULL, AT(ignore_eos), "Go on past the token that ends a text.", NULL},
    {"echo", 'e', CLI_FLAG, NULL, AT(echo), "Print the text itself first.", NULL},
    {"quiet", 'q', CLI_FLAG, NULL, AT(quiet), "No speeds on standard error.", NULL},
    {"json", 0, CLI_FLAG, NULL, AT(json), "JSON on standard output, when all is generated.", NULL},
    {NULL, 0, 0, NULL, 0, NULL, NULL}};

static const struct cli_cmd cmd = {
    .name = "lm-generate",
    .brief = "continue a text with a model",
    .synopsis = "MODEL -p TEXT",
    .about =
        "Prints the continuation of a text, token by token as it comes, in whole characters; then, on standard error, "
        "the speed of reading and of writing and the device. It stops at the model's end-of-text token, after -n "
        "tokens, or when the context is full. Without --temp it is greedy and always gives the same text.\n"
        "\n"
        "A beginning-of-text token is put in front when the checkpoint asks for it.\n"
        "\n"
        "With --json: an object with prompt_ids and ids (lists of numbers; ids without the end-of-text token), text "
        "(the continuation) and stopped (length, eos, context or interrupted).\n",
    .opts = opts,
    .examples = "  $ lm-generate model.gguf -p 'Pan Ignacy usiadł przy stole i' -n 48\n"
                "  $ lm-generate model/ -f story.txt -n -1 --temp 0.8 --top-p 0.95 --seed 7\n",
    .min_args = 1,
    .max_args = 1};

int main(int argc, char **argv)
{
    struct generation g = {.o = {.n = 128, .top_p = 1, .seed = NO_SEED}};
    struct lm_err e;

    cli_parse(&cmd, argc, argv, &g.o);
    int code = run(&g, argv[1], &e) == 0 ? CLI_OK : cli_fail(&e);
    if (g.stopped && strcmp(g.stopped, "interrupted") == 0)
        code = 130;
    lm_ids_free(&g.prompt);
    lm_ids_free(&g.out);
    free(g.text);
    free(g.said);
    free(g.piece);
    free(g.logits);
    cli_unload(&g.l);
    return cli_finish(code);
}
