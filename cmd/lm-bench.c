/* lm-bench: how fast a model runs here, and how near that is to what the machine can do. */
#include <stdlib.h>

#include "cmd/bench_limits.h"
#include "cmd/cli_engine.h"

struct options {
    int prefill, decode, rounds;
    struct cli_engine_opts engine;
    bool json;
};

enum { MAX_ROUNDS = 100 };

struct rates {
    double at[MAX_ROUNDS];
    int n;
};

struct bench {
    struct options o;
    struct cli_loaded l;
    int32_t *ids;
    float *logits;
    struct rates prefill, decode;
    double token_bytes, token_flops; /* that one token reads and computes */
    double bandwidth, flops;         /* a second, that memory and processor give; 0: not measured */
};

/* ---- what a token costs */

/* The share of a stacked expert tensor that a token uses. */
static double used_share(const struct lm_config *c, const struct lm_tensor *t)
{
    bool experts = c->n_experts > 0 && t->n_dims == 3 && t->shape[0] == c->n_experts;

    return experts ? (double)c->n_experts_used / c->n_experts : 1;
}

static void cost(struct bench *b)
{
    const struct lm_binding *bind = lm_engine_binding(b->l.engine);
    const struct lm_tensor *head = lm_bound_tensor(bind, LM_ROLE_OUTPUT, -1);

    for (int layer = -1; layer < (int)bind->config.n_layers; layer++)
        for (int r = 0; r < LM_N_ROLES; r++) {
            const struct lm_tensor *t = lm_bound_tensor(bind, (enum lm_role)r, layer);
            bool rows_only = r == LM_ROLE_POS_EMBD || (r == LM_ROLE_TOKEN_EMBD && head);
            if (!t || rows_only)
                continue;
            double share = used_share(&bind->config, t);
            b->token_bytes += share * (double)t->n_bytes;
            b->token_flops += t->n_dims >= 2 ? 2 * share * (double)t->n_elems : 0;
        }
}

/* ---- runs */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(const struct rates *r)
{
    return r->n % 2 ? r->at[r->n / 2] : (r->at[r->n / 2 - 1] + r->at[r->n / 2]) / 2;
}

static int prefill(struct bench *b, struct lm_err *e)
{
    double t0 = cli_now();

    lm_session_rewind(b->l.session, 0);
    if (lm_session_eval(b->l.session, b->ids, (size_t)b->o.prefill, LM_LOGITS_LAST, b->logits, e) != 0)
        return -1;
    b->prefill.at[b->prefill.n++] = b->o.prefill / (cli_now() - t0);
    return 0;
}

static int decode(struct bench *b, struct lm_err *e)
{
    double t0 = cli_now();

    lm_session_rewind(b->l.session, 0);
    for (int i = 0; i < b->o.decode; i++) {
        if (cli_stop)
            return lm_err_set(e, LM_INTERRUPTED, "interrupted");
        if (lm_session_eval(b->l.session, b->ids + i, 1, LM_LOGITS_LAST, b->logits, e) != 0)
            return -1;
    }
    b->decode.at[b->decode.n++] = b->o.decode / (cli_now() - t0);
    return 0;
}

static int measure(struct bench *b, struct lm_err *e)
{
    struct lm_session *s = b->l.session;

    if (lm_session_eval(s, b->ids, 1, LM_LOGITS_LAST, b->logits, e) != 0) /* pages in, threads up */
        return -1;
    for (int i = 0; i < b->o.rounds; i++) {
        if (cli_stop)
            return lm_err_set(e, LM_INTERRUPTED, "interrupted");
        if ((b->o.prefill > 0 && prefill(b, e) != 0) || (b->o.decode > 0 && decode(b, e) != 0))
            return -1;
    }
    qsort(b->prefill.at, (size_t)b->prefill.n, sizeof *b->prefill.at, by_value);
    qsort(b->decode.at, (size_t)b->decode.n, sizeof *b->decode.at, by_value);
    return 0;
}

/* ---- showing */

static void row(struct cli_table *t, const char *what, int n, const struct rates *r, const char *limit)
{
    char count[32], rate[32], range[64];

    if (r->n == 0)
        return;
    snprintf(count, sizeof count, "%d", n);
    snprintf(rate, sizeof rate, "%.2f", median(r));
    snprintf(range, sizeof range, "%.2f - %.2f", r->at[0], r->at[r->n - 1]);
    cli_table_row(t, what, count, rate, range, limit);
}

static void print_text(const struct bench *b)
{
    static const char *const heads[] = {"test", "tokens", "tokens/s", "least - most", "of the limits", NULL};
    struct cli_table *t = cli_table_new(heads, "lrrrl");
    char device[200], compute[160] = "", memory[160] = "";
    double flops = b->prefill.n ? median(&b->prefill) * b->token_flops : 0;

    if (b->prefill.n && b->flops > 0)
        snprintf(compute, sizeof compute, "computes %.1f GFLOP/s, %.0f %% of the %.1f GFLOP/s of f32 arithmetic",
                 flops / 1e9, 100 * flops / b->flops, b->flops / 1e9);
    else if (b->prefill.n)
        snprintf(compute, sizeof compute, "computes %.1f GFLOP/s", flops / 1e9);
    if (b->decode.n && b->bandwidth > 0)
        snprintf(memory, sizeof memory, "reads %.1f GB/s, %.0f %% of the %.1f GB/s that the memory gives",
                 median(&b->decode) * b->token_bytes / 1e9, 100 * median(&b->decode) * b->token_bytes / b->bandwidth,
                 b->bandwidth / 1e9);
    row(t, "prefill", b->o.prefill, &b->prefill, compute);
    row(t, "decode", b->o.decode, &b->decode, memory);
    cli_table_print(t, stdout);
    lm_engine_describe(b->l.engine, device, sizeof device);
    cli_note("%s; medians of %d", device, b->o.rounds);
}

static json_t *rates_json(const struct rates *r, int tokens)
{
    if (r->n == 0)
        return json_null();
    return json_pack("{s:i, s:f, s:f, s:f}", "tokens", tokens, "tokens_per_second", median(r), "least", r->at[0], "most",
                     r->at[r->n - 1]);
}

static void print_json(const struct bench *b)
{
    char device[200];
    json_t *o = json_object();

    lm_engine_describe(b->l.engine, device, sizeof device);
    json_object_set_new(o, "device", json_string(device));
    json_object_set_new(o, "rounds", json_integer(b->o.rounds));
    json_object_set_new(o, "prefill", rates_json(&b->prefill, b->o.prefill));
    json_object_set_new(o, "decode", rates_json(&b->decode, b->o.decode));
    json_object_set_new(o, "bytes_per_token", json_integer((json_int_t)b->token_bytes));
    json_object_set_new(o, "flops_per_token", json_integer((json_int_t)b->token_flops));
    json_object_set_new(o, "memory_bytes_per_second", b->bandwidth > 0 ? cli_json_real(b->bandwidth) : json_null());
    json_object_set_new(o, "f32_flops_per_second", b->flops > 0 ? cli_json_real(b->flops) : json_null());
    cli_json_print(o);
}

/* ---- running */

static int prepare(struct bench *b, const char *path, struct lm_err *e)
{
    const struct options *o = &b->o;
    int n = o->prefill > o->decode ? o->prefill : o->decode;
    uint64_t seed = 1;

    if (o->prefill < 0 || o->decode < 0 || n == 0 || n > 1 << 20 || o->rounds < 1 || o->rounds > MAX_ROUNDS)
        return lm_err_set(e, LM_USAGE, "-p and -n are 0 or more and not both 0, -r is 1 to %d", MAX_ROUNDS);
    if (lm_model_open(&b->l.model, path, e) != 0 || cli_start(&b->l, &o->engine, (uint64_t)n, e) != 0)
        return -1;
    uint32_t vocab = lm_engine_config(b->l.engine)->vocab_size;
    b->ids = malloc((size_t)n * sizeof *b->ids);
    b->logits = malloc(vocab * sizeof *b->logits);
    if (!b->ids || !b->logits)
        return lm_err_set(e, LM_NOMEM, "no memory for %d tokens", n);
    for (int i = 0; i < n; i++) { /* any text will do; nothing depends on it */
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        b->ids[i] = (int32_t)((seed >> 33) % vocab);
    }
    return 0;
}

static int run(struct bench *b, const char *path, struct lm_err *e)
{
    char device[200];

    if (prepare(b, path, e) != 0)
        return -1;
    cli_catch_signals();
    cost(b);
    if (measure(b, e) != 0)
        return -1;
    lm_engine_describe(b->l.engine, device, sizeof device);
    if (strncmp(device, "cpu", 3) == 0) {
        b->bandwidth = bench_read_bandwidth(b->o.engine.threads);
        b->flops = bench_f32_flops(b->o.engine.threads);
    }
    if (b->o.json)
        print_json(b);
    else
        print_text(b);
    return 0;
}

#define AT(field) offsetof(struct options, field)
static const struct cli_opt opts[] = {
    {"prefill", 'p', CLI_INT, "N", AT(prefill), "Tokens read at once (default 512; 0: leave it out).", NULL},
    {"decode", 'n', CLI_INT, "N", AT(decode), "Tokens one by one from an empty context (default 64; 0: leave it out).",
     NULL},
    {"rounds", 'r', CLI_INT, "N", AT(rounds), "Rounds, of which medians are printed (default 3).", NULL},
    CLI_ENGINE_ROWS(AT(engine)),
    {"math", 0, CLI_CHOICE, NULL, AT(engine.math), "As for lm-generate.", cli_maths},
    {"json", 0, CLI_FLAG, NULL, AT(json), "JSON on standard output.", NULL},
    {NULL, 0, 0, NULL, 0, NULL, NULL}};

static const struct cli_cmd cmd = {
    .name = "lm-bench",
    .brief = "how fast a model runs here",
    .synopsis = "MODEL",
    .about =
        "Reads a text of random tokens at once (prefill), then one token after another (decode), several times, and "
        "prints the medians in tokens per second. On a CPU, decoding is bound by reading the weights: the bytes a token "
        "reads (of experts only those in use) times the speed is set against what reading memory gives, and the arithmetic "
        "of prefill (products with weights) against f32 multiply-adds from registers, both measured in the same run. "
        "Products of quantized or BF16 weights may go beyond the latter.\n"
        "\n"
        "With --json: device, rounds, prefill and decode (tokens, tokens_per_second, least, most; null when left out), "
        "bytes_per_token, flops_per_token, memory_bytes_per_second, f32_flops_per_second.\n",
    .opts = opts,
    .examples = "  $ lm-bench model.gguf\n"
                "  $ lm-bench model.gguf -p 2048 -n 128 --device cuda\n",
    .min_args = 1,
    .max_args = 1};

int main(int argc, char **argv)
{
    struct bench b = {.o = {.prefill = 512, .decode = 64, .rounds = 3}};
    struct lm_err e;

    cli_parse(&cmd, argc, argv, &b.o);
    int code = run(&b, argv[1], &e) == 0 ? CLI_OK : cli_fail(&e);
    free(b.ids);
    free(b.logits);
    cli_unload(&b.l);
    return cli_finish(code);
}
