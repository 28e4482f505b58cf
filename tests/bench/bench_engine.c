/* How fast the engine runs a model:
 *
 *     bench_engine MODEL [-p N] [-n N] [-t THREADS] [-r ROUNDS] [--device D] [--exact]
 *
 * Prefill of N tokens, decoding of N more from an empty context, the bytes of
 * weights that a token reads and what that makes in GB/s. With LLAMA_BENCH in the
 * environment (the path of llama-bench), that program runs on the same file
 * between our rounds and the ratio of the best rounds is printed: interleaved,
 * because a shared machine is not equally fast at all times. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "gpu/engine.h"

struct options {
    const char *model, *device;
    int prefill, decode, threads, rounds;
    bool exact;
};

struct rates {
    double prefill, decode; /* tokens a second, best round */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fail(const char *what, const struct lm_err *e)
{
    fprintf(stderr, "bench_engine: %s: %s\n", what, e->text);
    exit(3);
}

static void keep_best(struct rates *best, double prefill, double decode)
{
    best->prefill = prefill > best->prefill ? prefill : best->prefill;
    best->decode = decode > best->decode ? decode : best->decode;
}

static void our_round(struct lm_session *s, const struct options *o, const int32_t *ids, float *logits,
                      struct rates *best)
{
    struct lm_err e = {0};
    double t0, t1, t2;

    lm_session_rewind(s, 0);
    t0 = now();
    if (o->prefill > 0 && lm_session_eval(s, ids, (size_t)o->prefill, LM_LOGITS_LAST, logits, &e))
        fail("prefill", &e);
    t1 = now();
    lm_session_rewind(s, 0);
    for (int i = 0; i < o->decode; i++)
        if (lm_session_eval(s, ids + i, 1, LM_LOGITS_LAST, logits, &e))
            fail("decode", &e);
    t2 = now();
    keep_best(best, o->prefill / (t1 - t0), o->decode / (t2 - t1));
}

/* llama-bench prints one JSON object a line and test: first prefill, then decode. */
static double avg_ts(const char *line)
{
    const char *at = strstr(line, "\"avg_ts\":");
    return at ? atof(at + strlen("\"avg_ts\":")) : 0;
}

static void peer_round(const char *peer, const struct options *o, struct rates *best)
{
    char cmd[4096], line[4096];
    double prefill = 0, decode = 0;
    FILE *f;

    snprintf(cmd, sizeof cmd, "'%s' -m '%s' -p %d -n %d -t %d -r 1 -o jsonl 2>/dev/null", peer, o->model, o->prefill,
             o->decode, o->threads);
    if (!(f = popen(cmd, "r")))
        return;
    while (fgets(line, sizeof line, f))
        *(strstr(line, "\"n_gen\": 0") ? &prefill : &decode) = avg_ts(line);
    pclose(f);
    keep_best(best, prefill, decode);
}

/* What one decoded token reads of the weights: everything but the embedding, unless it is the head too. */
static double token_bytes(const struct lm_engine *g)
{
    const struct lm_binding *b = lm_engine_binding(g);
    double bytes = 0;

    for (size_t layer = 0; layer <= b->config.n_layers; layer++)
        for (int r = 0; r < LM_N_ROLES; r++) {
            const struct lm_tensor *t = lm_bound_tensor(b, (enum lm_role)r, (int)layer - 1);
            bool head = r == LM_ROLE_TOKEN_EMBD && !lm_bound_tensor(b, LM_ROLE_OUTPUT, -1);
            if (t && (layer > 0 || r != LM_ROLE_TOKEN_EMBD || head))
                bytes += (double)t->n_bytes;
        }
    return bytes;
}

static void run(struct lm_engine *g, const struct options *o)
{
    const char *peer = getenv("LLAMA_BENCH");
    uint32_t vocab = lm_engine_config(g)->vocab_size;
    int n = o->prefill > o->decode ? o->prefill : o->decode;
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    float *logits = malloc(vocab * sizeof *logits);
    struct rates ours = {0, 0}, theirs = {0, 0};
    struct lm_session *s;
    struct lm_err e = {0};
    uint64_t seed = 1;

    if (!ids || !logits || lm_session_open(&s, g, &e))
        fail("session", &e);
    for (int i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((seed >> 33) % vocab);
    }
    our_round(s, o, ids, logits, &(struct rates){0, 0}); /* reads the file, touches the memory */
    for (int i = 0; i < o->rounds; i++) {
        our_round(s, o, ids, logits, &ours);
        if (peer)
            peer_round(peer, o, &theirs);
    }
    printf("prefill %d: %.1f tok/s\n", o->prefill, ours.prefill);
    printf("decode %d: %.1f tok/s, %.1f GB/s of weights\n", o->decode, ours.decode, ours.decode * token_bytes(g) * 1e-9);
    if (theirs.prefill > 0)
        printf("peer prefill: %.1f tok/s, ratio %.2f\n", theirs.prefill, ours.prefill / theirs.prefill);
    if (theirs.decode > 0)
        printf("peer decode: %.1f tok/s, ratio %.2f\n", theirs.decode, ours.decode / theirs.decode);
    lm_session_close(s);
    free(ids);
    free(logits);
}

static int usage(void)
{
    fprintf(stderr, "usage: bench_engine MODEL [-p N] [-n N] [-t THREADS] [-r ROUNDS] [--device D] [--exact]\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct options o = {NULL, "cpu", 512, 64, 2, 3, false};
    struct lm_engine_options eo = {0};
    struct lm_model *m;
    struct lm_engine *g = NULL;
    struct lm_err e = {0};
    char what[256];

    for (int i = 1; i < argc; i++) {
        int *number = !strcmp(argv[i], "-p") ? &o.prefill : !strcmp(argv[i], "-n") ? &o.decode
                    : !strcmp(argv[i], "-t") ? &o.threads : !strcmp(argv[i], "-r") ? &o.rounds : NULL;
        if (!strcmp(argv[i], "--exact"))
            o.exact = true;
        else if (number && i + 1 < argc)
            *number = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--device") && i + 1 < argc)
            o.device = argv[++i];
        else if (!o.model && argv[i][0] != '-')
            o.model = argv[i];
        else
            return usage();
    }
    if (!o.model)
        return usage();
    eo = (struct lm_engine_options){o.device, o.exact ? LM_MATH_EXACT : LM_MATH_FAST, o.threads, 0};
    if (lm_model_open(&m, o.model, &e) || lm_engine_open(&g, m, &eo, &e))
        fail(o.model, &e);
    lm_engine_describe(g, what, sizeof what);
    printf("%s (%s)\n", o.model, what);
    run(g, &o);
    lm_engine_close(g);
    lm_model_close(m);
    return 0;
}
