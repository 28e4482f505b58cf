/* --truth: what each way of computing one model costs, against the pass in double. */
#include <math.h>
#include <stdlib.h>

#include "cmd/verify.h"

struct mode { const char *name, *what; int math; bool gpu; };
static const struct mode modes[] = {
    {"exact", "f32, weights decoded exactly", CLI_MATH_EXACT, false},
    {"fast", "activations rounded to the weights' grain", CLI_MATH_FAST, false},
    {"exact", "f32, weights decoded exactly", CLI_MATH_EXACT, true},
    {"tf32", "tensor cores, TF32", CLI_MATH_TF32, true},
    {"bf16", "tensor cores, BF16", CLI_MATH_BF16, true},
};
enum { N_MODES = sizeof modes / sizeof modes[0], MOST_WEIGHTS = 1 + VERIFY_MOST_TYPES + 1, MOST_TOKENS = 512 };

struct outcome { char device[160]; double max, sum2, sum, kld, kld_max, top1, seconds; size_t n, n_logits; };

static double kl(const double *p, const float *q, size_t n)
{
    double mp = -INFINITY, mq = -INFINITY, sp = 0, sq = 0, cross = 0;

    for (size_t i = 0; i < n; i++) {
        mp = fmax(mp, p[i]);
        mq = fmax(mq, (double)q[i]);
    }
    for (size_t i = 0; i < n; i++) {
        double w = exp(p[i] - mp);
        sp += w;
        sq += exp((double)q[i] - mq);
        cross += w * (p[i] - mp - ((double)q[i] - mq));
    }
    return fmax(0, cross / sp - log(sp) + log(sq));
}

static void add(struct outcome *o, const double *truth, const float *x, size_t n)
{
    size_t best = 0, best_x = 0;
    double k = kl(truth, x, n);

    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)x[i] - truth[i]);
        o->max = d > o->max || isnan(d) ? d : o->max;
        o->sum += d;
        o->sum2 += d * d;
        best = truth[i] > truth[best] ? i : best;
        best_x = x[i] > x[best_x] ? i : best_x;
    }
    o->kld += k;
    o->kld_max = k > o->kld_max ? k : o->kld_max;
    o->top1 += best == best_x;
    o->n++;
    o->n_logits += n;
}

/* One way of computing, in lock step with the truth. */
struct run {
    const struct mode *mode;
    const char *weights; /* "A", "B", "Q4_K_M" */
    struct cli_loaded l;
    struct outcome o;
};
struct truth {
    struct run truth, runs[MOST_WEIGHTS * N_MODES];
    size_t n;
    double seconds;
    struct { const char *name; struct lm_model *model; bool owned; } weights[MOST_WEIGHTS];
    size_t n_weights;
};

static bool asks_for(const struct verify *v, const char *device)
{
    return v->o.engine.device && strncmp(v->o.engine.device, device, strlen(device)) == 0;
}

/* mode NULL: the truth. A GPU is asked for by --device; without the option it is used when it is there, and 1 says
 * that it is not. */
static int open_run(struct verify *v, struct run *r, struct lm_model *model, const struct mode *m, struct lm_err *e)
{
    struct cli_engine_opts o = {.threads = v->o.engine.threads, .math = m ? m->math : CLI_MATH_F64, .device = "cpu"};
    bool perhaps = m && m->gpu && !asks_for(v, "cuda");
    struct lm_err missing;

    if (m && m->gpu && asks_for(v, "cpu"))
        return 1;
    if (m && m->gpu)
        o.device = asks_for(v, "cuda") ? v->o.engine.device : "cuda";
    *r = (struct run){.mode = m, .l = {.model = model}};
    if (cli_start(&r->l, &o, v->window, perhaps ? &missing : e) != 0)
        return perhaps ? 1 : -1;
    lm_engine_describe(r->l.engine, r->o.device, sizeof r->o.device);
    return 0;
}

/* The model stays open. */
static void close_run(struct run *r)
{
    r->l.model = NULL;
    cli_unload(&r->l);
}

static int open_runs(struct verify *v, struct truth *t, struct lm_err *e)
{
    if (open_run(v, &t->truth, v->a.model, NULL, e) != 0)
        return -1;
    for (size_t w = 0; w < t->n_weights; w++)
        for (int m = 0; m < N_MODES; m++) {
            struct run *r = &t->runs[t->n];
            int opened = open_run(v, r, t->weights[w].model, &modes[m], e);
            if (opened < 0)
                return -1;
            r->weights = t->weights[w].name;
            t->n += opened == 0;
            if (opened != 0)
                close_run(r);
        }
    return 0;
}

static void add_weights(struct truth *t, const char *name, struct lm_model *m, bool owned)
{
    t->weights[t->n_weights].name = name;
    t->weights[t->n_weights].model = m;
    t->weights[t->n_weights++].owned = owned;
}

/* The model itself, the second one, and the first rounded to other types. */
static int find_weights(struct verify *v, struct truth *t, struct lm_err *e)
{
    struct lm_model *rounded[VERIFY_MOST_TYPES];
    const char *names[VERIFY_MOST_TYPES];
    size_t n = 0;

    add_weights(t, "A", v->a.model, false);
    if (v->b.model)
        add_weights(t, "B", v->b.model, false);
    int r = verify_round(v, rounded, names, &n, e);
    for (size_t i = 0; i < n; i++)
        add_weights(t, names[i], rounded[i], true);
    return r;
}

/* ---- running */

struct rooms { double *truth; float *x; size_t n; };

static int run_chunk(struct verify *v, struct truth *t, const struct rooms *room, size_t at, size_t n, struct lm_err *e)
{
    double began = cli_now();

    if (lm_session_eval_f64(t->truth.l.session, v->ids.ids + at, n, LM_LOGITS_ALL, room->truth, e) != 0)
        return -1;
    t->seconds += cli_now() - began;
    for (size_t k = 0; k < t->n; k++) {
        struct run *r = &t->runs[k];
        if (cli_stop)
            return lm_err_set(e, LM_INTERRUPTED, "interrupted");
        began = cli_now();
        if (lm_session_eval(r->l.session, v->ids.ids + at, n, LM_LOGITS_ALL, room->x, e) != 0)
            return -1;
        r->o.seconds += cli_now() - began;
        for (size_t i = 0; i < n; i++)
            add(&r->o, room->truth + i * v->vocab, room->x + i * v->vocab, v->vocab);
    }
    return 0;
}

static int run_all(struct verify *v, struct truth *t, struct lm_err *e)
{
    size_t row = v->vocab * sizeof(double);
    struct rooms room = {.n = VERIFY_ROOM / row > 0 ? VERIFY_ROOM / row : 1};
    int r = find_weights(v, t, e) != 0 || open_runs(v, t, e) != 0 ? -1 : 0;

    room.n = room.n < v->ids.n ? room.n : v->ids.n;
    room.truth = malloc(room.n * row);
    room.x = malloc(room.n * v->vocab * sizeof *room.x);
    if (r == 0 && (!room.truth || !room.x))
        r = lm_err_set(e, LM_NOMEM, "no memory for the logits");
    for (size_t at = 0; r == 0 && at < v->ids.n; at += room.n)
        r = run_chunk(v, t, &room, at, v->ids.n - at < room.n ? v->ids.n - at : room.n, e);
    free(room.truth);
    free(room.x);
    return r;
}

/* ---- what it says */

static void print_table(const struct verify *v, const struct truth *t)
{
    static const char *const heads[] = {"weights", "computed in", "on", "max |diff|", "mean |diff|", "rms", "mean KLD",
                                        "max KLD", "top 1", "tok/s"};
    struct cli_table *table = cli_table_new(heads, "lllrrrrrrr");

    for (size_t i = 0; i < t->n; i++) {
        const struct outcome *o = &t->runs[i].o;
        char c[7][32];
        double n = (double)o->n, all = (double)o->n_logits;
        const double values[] = {o->max, o->sum / all, sqrt(o->sum2 / all), o->kld / n, o->kld_max};
        for (int k = 0; k < 5; k++)
            snprintf(c[k], sizeof c[k], "%.3g", values[k]);
        snprintf(c[5], sizeof c[5], "%.1f %%", 100 * o->top1 / n);
        snprintf(c[6], sizeof c[6], "%.0f", n / o->seconds);
        cli_table_row(table, t->runs[i].weights, t->runs[i].mode->name, o->device, c[0], c[1], c[2], c[3], c[4], c[5],
                      c[6]);
    }
    printf("truth             A, everything in double, %zu tokens, %.0f tok/s\n\n", v->ids.n,
           (double)v->ids.n / t->seconds);
    cli_table_print(table, stdout);
}

static json_t *table_json(const struct verify *v, const struct truth *t)
{
    json_t *a = json_array();

    for (size_t i = 0; i < t->n; i++) {
        const struct outcome *o = &t->runs[i].o;
        double n = (double)o->n, all = (double)o->n_logits;
        json_array_append_new(
            a, json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "weights", t->runs[i].weights,
                         "math", t->runs[i].mode->name, "what", t->runs[i].mode->what, "device", o->device,
                         "max_abs_logit_diff", cli_json_real(o->max), "mean_abs_logit_diff", cli_json_real(o->sum / all),
                         "rms_logit_diff", cli_json_real(sqrt(o->sum2 / all)), "kld_mean", cli_json_real(o->kld / n),
                         "kld_max", cli_json_real(o->kld_max), "top1_agreement", cli_json_real(o->top1 / n),
                         "tokens_per_second", cli_json_real(n / o->seconds)));
    }
    return json_pack("{s:I, s:o}", "n_tokens", (json_int_t)v->ids.n, "modes", a);
}

int verify_truth(struct verify *v, struct lm_err *e)
{
    struct truth *t = calloc(1, sizeof *t);
    size_t most = v->window < MOST_TOKENS ? v->window : MOST_TOKENS;

    if (!t)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    v->ids.n = v->ids.n < most ? v->ids.n : most;
    v->window = (uint32_t)v->ids.n;
    int r = run_all(v, t, e);
    if (r == 0 && v->o.json)
        cli_json_print(table_json(v, t));
    else if (r == 0)
        print_table(v, t);
    close_run(&t->truth);
    for (size_t i = 0; i < t->n; i++)
        close_run(&t->runs[i]);
    for (size_t i = 0; i < t->n_weights; i++)
        if (t->weights[i].owned)
            lm_model_close(t->weights[i].model);
    free(t);
    return r;
}
