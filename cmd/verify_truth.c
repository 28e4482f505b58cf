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
enum { N_MODES = sizeof modes / sizeof modes[0], MOST_TOKENS = 512 };

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
struct run { struct cli_loaded l; bool open; };

static bool asks_for_cuda(const struct verify *v)
{
    return v->o.engine.device && strncmp(v->o.engine.device, "cuda", 4) == 0;
}

/* m NULL: the truth. A GPU is asked for by --device; without the option it is used when it is there. */
static int open_run(struct verify *v, struct run *r, const struct mode *m, struct lm_err *e)
{
    struct cli_engine_opts o = {.threads = v->o.engine.threads, .math = m ? m->math : CLI_MATH_F64, .device = "cpu"};
    struct lm_err missing;

    if (m && m->gpu && v->o.engine.device && strcmp(v->o.engine.device, "cpu") == 0)
        return 0;
    if (m && m->gpu)
        o.device = asks_for_cuda(v) ? v->o.engine.device : "cuda";
    r->l = (struct cli_loaded){.model = v->a.model};
    r->open = cli_start(&r->l, &o, v->window, m && m->gpu && !asks_for_cuda(v) ? &missing : e) == 0;
    return r->open || (m && m->gpu && !asks_for_cuda(v)) ? 0 : -1;
}

/* The model stays open. */
static void close_run(struct run *r)
{
    r->l.model = NULL;
    cli_unload(&r->l);
}

struct rooms { double *truth; float *x; size_t n; };

static int run_chunk(struct verify *v, struct run *runs, struct outcome *o, const struct rooms *room, size_t at, size_t n,
                     double *seconds, struct lm_err *e)
{
    double began = cli_now();

    if (cli_stop)
        return lm_err_set(e, LM_INTERRUPTED, "interrupted");
    if (lm_session_eval_f64(runs[N_MODES].l.session, v->ids.ids + at, n, LM_LOGITS_ALL, room->truth, e) != 0)
        return -1;
    *seconds += cli_now() - began;
    for (int m = 0; m < N_MODES; m++) {
        if (!runs[m].open)
            continue;
        began = cli_now();
        if (lm_session_eval(runs[m].l.session, v->ids.ids + at, n, LM_LOGITS_ALL, room->x, e) != 0)
            return -1;
        o[m].seconds += cli_now() - began;
        for (size_t i = 0; i < n; i++)
            add(&o[m], room->truth + i * v->vocab, room->x + i * v->vocab, v->vocab);
    }
    return 0;
}

static int run_all(struct verify *v, struct run *runs, struct outcome *o, double *seconds, struct lm_err *e)
{
    size_t row = v->vocab * sizeof(double);
    struct rooms room = {.n = VERIFY_ROOM / row > 0 ? VERIFY_ROOM / row : 1};
    int r = open_run(v, &runs[N_MODES], NULL, e);

    for (int m = 0; r == 0 && m < N_MODES; m++) {
        r = open_run(v, &runs[m], &modes[m], e);
        if (r == 0 && runs[m].open)
            lm_engine_describe(runs[m].l.engine, o[m].device, sizeof o[m].device);
    }
    room.truth = malloc(room.n * row);
    room.x = malloc(room.n * v->vocab * sizeof *room.x);
    if (r == 0 && (!room.truth || !room.x))
        r = lm_err_set(e, LM_NOMEM, "no memory for the logits");
    for (size_t at = 0; r == 0 && at < v->ids.n; at += room.n)
        r = run_chunk(v, runs, o, &room, at, v->ids.n - at < room.n ? v->ids.n - at : room.n, seconds, e);
    free(room.truth);
    free(room.x);
    return r;
}

static void print_table(const struct verify *v, const struct outcome *o, double seconds)
{
    static const char *const heads[] = {"computed in", "on", "max |diff|", "mean |diff|", "rms", "mean KLD", "max KLD",
                                        "top 1", "tok/s"};
    struct cli_table *t = cli_table_new(heads, "llrrrrrrr");

    for (int i = 0; i < N_MODES; i++) {
        char c[7][32];
        double n = (double)o[i].n, all = (double)o[i].n_logits;
        if (!o[i].n)
            continue;
        const double values[] = {o[i].max, o[i].sum / all, sqrt(o[i].sum2 / all), o[i].kld / n, o[i].kld_max};
        for (int k = 0; k < 5; k++)
            snprintf(c[k], sizeof c[k], "%.3g", values[k]);
        snprintf(c[5], sizeof c[5], "%.1f %%", 100 * o[i].top1 / n);
        snprintf(c[6], sizeof c[6], "%.0f", n / o[i].seconds);
        cli_table_row(t, modes[i].name, o[i].device, c[0], c[1], c[2], c[3], c[4], c[5], c[6]);
    }
    printf("truth             everything in double, %zu tokens, %.0f tok/s\n\n", v->ids.n, (double)v->ids.n / seconds);
    cli_table_print(t, stdout);
}

static json_t *table_json(const struct verify *v, const struct outcome *o)
{
    json_t *a = json_array();

    for (int i = 0; i < N_MODES; i++) {
        double n = (double)o[i].n, all = (double)o[i].n_logits;
        if (!o[i].n)
            continue;
        json_array_append_new(
            a, json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "math", modes[i].name, "what", modes[i].what,
                         "device", o[i].device, "max_abs_logit_diff", cli_json_real(o[i].max), "mean_abs_logit_diff",
                         cli_json_real(o[i].sum / all), "rms_logit_diff", cli_json_real(sqrt(o[i].sum2 / all)),
                         "kld_mean", cli_json_real(o[i].kld / n), "kld_max", cli_json_real(o[i].kld_max),
                         "top1_agreement", cli_json_real(o[i].top1 / n), "tokens_per_second",
                         cli_json_real(n / o[i].seconds)));
    }
    return json_pack("{s:I, s:o}", "n_tokens", (json_int_t)v->ids.n, "modes", a);
}

int verify_truth(struct verify *v, struct lm_err *e)
{
    struct outcome o[N_MODES] = {0};
    struct run runs[N_MODES + 1] = {0};
    size_t most = v->window < MOST_TOKENS ? v->window : MOST_TOKENS;
    double seconds = 0;

    v->ids.n = v->ids.n < most ? v->ids.n : most;
    v->window = (uint32_t)v->ids.n;
    int r = run_all(v, runs, o, &seconds, e);
    for (int m = 0; m <= N_MODES; m++)
        close_run(&runs[m]);
    if (r != 0)
        return -1;
    if (v->o.json)
        cli_json_print(table_json(v, o));
    else
        print_table(v, o, seconds);
    return 0;
}
