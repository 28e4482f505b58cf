#include <stdlib.h>
#include <sched.h>
#include <sys/statvfs.h>

#include "cmd/quantize.h"

enum { SAMPLE = 1 << 15, ROW = 4096 };

/* ---- time: every encoder that is needed works on a small sample */

struct sample { float *x, *weights; uint8_t *out; };

static int make_sample(struct sample *s)
{
    uint32_t u = 1;

    s->x = malloc(SAMPLE * sizeof(float));
    s->weights = malloc(ROW * sizeof(float));
    s->out = malloc(SAMPLE * sizeof(float));
    if (!s->x || !s->weights || !s->out)
        return -1;
    for (int i = 0; i < SAMPLE; i++) { /* sums of four: bell-shaped as weights are */
        float sum = 0;
        for (int k = 0; k < 4; k++) {
            u = u * 1664525 + 1013904223;
            sum += (float)(u >> 8) * 0x1p-24f - 0.5f;
        }
        s->x[i] = 0.03f * sum;
    }
    for (int i = 0; i < ROW; i++)
        s->weights[i] = 1 + s->x[i] * s->x[i];
    return 0;
}

static void free_sample(struct sample *s)
{
    free(s->x);
    free(s->weights);
    free(s->out);
}

/* Seconds that one value takes, the better of two tries. */
static double seconds_per_value(const struct sample *s, enum lm_dtype d, bool weighted)
{
    const struct lm_dtype_info *info = lm_dtype_info(d);
    double best = 1e9;

    for (int k = 0; k < 2; k++) {
        double began = cli_now();
        if (weighted)
            info->from_f32_weighted(s->out, s->x, s->weights, ROW, SAMPLE / ROW);
        else
            info->from_f32(s->out, s->x, SAMPLE);
        double t = cli_now() - began;
        best = t < best ? t : best;
    }
    return best / SAMPLE;
}

static int n_threads_of(const struct account_run *r)
{
    cpu_set_t set;

    if (r->n_threads > 0)
        return r->n_threads;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static double estimate(const struct lm_plan *p, const struct account_run *r)
{
    const double bytes_per_second = 1e9; /* of reading and writing, as of a good disk */
    double per_value[LM_N_DTYPES][2] = {{0}}, compute = 0;
    struct sample s = {0};

    if (make_sample(&s) == 0)
        for (size_t i = 0; i < p->n_items; i++) {
            const struct lm_plan_item *it = &p->items[i];
            bool weighted = it->importance != NULL;
            if (it->packs || (lm_plan_action(it) != LM_ACTION_QUANTIZE && lm_plan_action(it) != LM_ACTION_CAST))
                continue;
            double *t = &per_value[it->dtype][weighted];
            if (*t == 0)
                *t = seconds_per_value(&s, it->dtype, weighted);
            compute += *t * (double)lm_plan_elems(it);
        }
    free_sample(&s);
    return compute / n_threads_of(r) + (double)(p->n_src_bytes + p->n_dst_bytes) / bytes_per_second;
}

/* ---- room */

/* Bytes that an ordinary user may still write beside dst; -1: not known. */
static int free_bytes(const char *dst, uint64_t *out)
{
    const char *slash = strrchr(dst, '/');
    char *dir = slash ? strndup(dst, (size_t)(slash - dst) + 1) : strdup(".");
    struct statvfs v;
    int rc = dir ? statvfs(dir, &v) : -1;

    free(dir);
    if (rc == 0)
        *out = (uint64_t)v.f_bavail * v.f_frsize;
    return rc;
}

static void print_time(double seconds)
{
    if (seconds < 90)
        printf("about %.0f s", seconds < 1 ? 1 : seconds);
    else if (seconds < 5400)
        printf("about %.0f min", seconds / 60);
    else
        printf("about %.1f h", seconds / 3600);
}

int quantize_flight(const struct lm_plan *p, const struct account_run *r, struct lm_err *e)
{
    uint64_t room = UINT64_MAX;
    char need[32], have[32], memory[32];
    bool known = r->dst && free_bytes(r->dst, &room) == 0;
    int n = n_threads_of(r);

    printf("needs %s of disk", cli_bytes(need, sizeof need, p->n_dst_bytes));
    if (known)
        printf(" (%s free)", cli_bytes(have, sizeof have, room));
    printf(", at most %s of memory, ", cli_bytes(memory, sizeof memory, r->max_ram ? r->max_ram : 512000000));
    print_time(estimate(p, r));
    printf(" on %d thread%s\n", n, n == 1 ? "" : "s");
    if (room >= p->n_dst_bytes)
        return 0;
    return lm_err_set(e, LM_IO, "%s needs %s, and only %s are free there", r->dst, need, have);
}

/* ---- fallbacks */

int quantize_strict(const struct lm_plan *p, struct lm_err *e)
{
    size_t n = 0;

    for (size_t i = 0; i < p->n_items; i++)
        if (p->items[i].src && p->items[i].why) {
            cli_note("%s: %s", p->items[i].name, p->items[i].why);
            n++;
        }
    if (n == 0)
        return 0;
    return lm_err_set(e, LM_UNSUPPORTED, "%zu tensors cannot have the type meant for them (--strict); another --type, or "
                      "--tensor-type for these, avoids that", n);
}
