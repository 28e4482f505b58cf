/* The audit as text. */
#include "cmd/audit_show.h"

#include <math.h>
#include <stdlib.h>

enum { SHOWN = 3 };

/* ---- findings */

static const char *color_of(enum lm_severity s)
{
    static const char *const colors[] = {"\033[36m", "\033[33m", "\033[31;1m"};

    return cli_color(stdout) ? colors[s] : "";
}

static const char *plain(void)
{
    return cli_color(stdout) ? "\033[0m" : "";
}

/* All findings of the rule of findings[i]; returns how many. */
static size_t print_rule(const struct lm_audit *a, size_t i, bool all)
{
    const struct lm_rule *r = lm_rule_at(a->findings[i].rule);
    size_t n = 0;

    while (i + n < a->n_findings && a->findings[i + n].rule == a->findings[i].rule)
        n++;
    printf("%s%s%s  %s  %s%s\n", color_of(r->severity), lm_severity_name(r->severity), plain(), r->id, r->title,
           r->fixable ? " (--fix)" : "");
    for (size_t k = 0; k < n && (all || k < SHOWN); k++)
        printf("    %s: %s\n", cli_safe(lm_span_str(a->findings[i + k].where)),
               cli_safe(lm_span_str(a->findings[i + k].found)));
    if (!all && n > SHOWN)
        printf("    and %zu more (--all)\n", n - SHOWN);
    return n;
}

static void print_findings(const struct lm_audit *a, bool all)
{
    for (size_t i = 0; i < a->n_findings;)
        i += print_rule(a, i, all);
    if (a->n_findings)
        putchar('\n');
    size_t e = a->n_of[LM_ERROR], w = a->n_of[LM_WARNING], n = a->n_of[LM_NOTE];
    printf("%s%zu error%s%s, %zu warning%s, %zu note%s", color_of(e ? LM_ERROR : LM_NOTE), e, e == 1 ? "" : "s", plain(), w,
           w == 1 ? "" : "s", n, n == 1 ? "" : "s");
    printf("%s\n", a->n_findings ? "; --explain RULE says why one matters and what to do" : "");
}

/* ---- summary */

static void print_params(const struct lm_audit *a)
{
    char n[64], active[64], rest[64], bytes[64];

    printf("parameters    %s", cli_count(n, sizeof n, a->n_params));
    if (a->n_active != a->n_params)
        printf(", %s active (%s without the embedding)", cli_count(active, sizeof active, a->n_active),
               cli_count(rest, sizeof rest, a->n_multiplied));
    printf("\nbytes         %s in %zu tensors\n", cli_bytes(bytes, sizeof bytes, a->n_bytes), a->n_tensors);
}

static void print_summary(const struct lm_audit *a)
{
    printf("model         %s\n", cli_safe(lm_span_str(a->path)));
    if (!a->m)
        return;
    printf("format        %s\n", lm_model_format(a->m)->title);
    printf("architecture  %s\n", a->arch ? cli_safe(lm_span_str(a->arch)) : "not known");
    print_params(a);
    if (a->vocab)
        printf("tokenizer     %s, %zu pieces\n", a->vocab->source, a->vocab->n_pieces);
    if (a->template_hash)
        printf("template      %zu bytes, SHA-256 %s\n", a->template_bytes, a->template_hash);
}

/* ---- statistics, folded by role */

static void stats_row(struct cli_table *t, const char *name, size_t n, const struct lm_stats *s, enum lm_dtype d)
{
    char count[32], min[32], max[32], rms[32], zeros[32], bits[32];

    snprintf(count, sizeof count, "%zu", n);
    snprintf(min, sizeof min, "%.3g", (double)s->min);
    snprintf(max, sizeof max, "%.3g", (double)s->max);
    snprintf(rms, sizeof rms, "%.3g", lm_stats_rms(s));
    snprintf(zeros, sizeof zeros, "%.2f %%", 100.0 * (double)s->n_zero / (double)(s->n ? s->n : 1));
    snprintf(bits, sizeof bits, "%.1f", lm_stats_bits(s, d));
    cli_table_row(t, name, count, lm_dtype_name(d), min, max, rms, zeros, bits);
}

static const char *role_of(const struct lm_audit_tensor *t)
{
    return t->known ? lm_role_name(t->role) : "(unknown)";
}

static void print_roles(const struct lm_audit *a, bool each)
{
    static const char *const heads[] = {"role", "n", "dtype", "min", "max", "rms", "zeros", "bits"};
    static const char *const one[] = {"tensor", "n", "dtype", "min", "max", "rms", "zeros", "bits"};
    struct cli_table *t = cli_table_new(each ? one : heads, "lrlrrrrr");
    bool *done = calloc(a->n_tensors + 1, sizeof *done);

    for (size_t i = 0; done && i < a->n_tensors; i++) {
        const struct lm_audit_tensor *x = &a->tensors[i];
        struct lm_stats sum = {0};
        size_t n = 0;
        if (done[i] || !x->has_stats)
            continue;
        for (size_t k = i; k < a->n_tensors; k++) {
            const struct lm_audit_tensor *y = &a->tensors[k];
            if (done[k] || !y->has_stats || y->t->dtype != x->t->dtype || (each && k != i) ||
                strcmp(role_of(x), role_of(y)) != 0)
                continue;
            lm_stats_add(&sum, &y->stats);
            done[k] = true;
            n++;
        }
        stats_row(t, each ? cli_safe(lm_span_str(x->t->name)) : role_of(x), n, &sum, x->t->dtype);
    }
    free(done);
    cli_table_print(t, stdout);
}

/* ---- engines and memory */

static void print_engines(const struct lm_audit *a)
{
    static const char *const heads[] = {"engine", "loads", "why", "facts of"};
    struct cli_table *t = cli_table_new(heads, "llll");

    for (size_t i = 0; i < a->n_engines; i++) {
        const struct lm_engine_row *r = &a->engines[i];
        cli_table_row(t, r->engine, lm_verdict_name(r->verdict), r->why ? r->why : "", r->version);
    }
    cli_table_print(t, stdout);
}

static void print_memory(const struct lm_memory *m)
{
    static const char *const heads[] = {"weights as", "weights", "KV cache", "work", "total", "fits", "largest context"};
    struct cli_table *t;

    if (m->n_rows == 0)
        return;
    printf("\nmemory for %llu positions, batch %llu, KV cache in %s", (unsigned long long)m->ctx,
           (unsigned long long)m->batch, m->kv_dtype);
    char text[64];
    if (m->vram)
        printf(", %s of VRAM", cli_bytes(text, sizeof text, m->vram));
    printf(" (work: estimated)\n");
    t = cli_table_new(heads, m->vram ? "lrrrrlr" : "lrrrr");
    for (size_t i = 0; i < m->n_rows; i++) {
        const struct lm_memory_row *r = &m->rows[i];
        char w[32], kv[32], work[32], total[32], ctx[32];
        cli_table_row(t, r->dtype, cli_bytes(w, sizeof w, r->weights), cli_bytes(kv, sizeof kv, r->kv),
                      cli_bytes(work, sizeof work, r->buffers), cli_bytes(total, sizeof total, r->total),
                      r->fits ? "yes" : "no", cli_count(ctx, sizeof ctx, r->max_ctx));
    }
    cli_table_print(t, stdout);
}

void audit_print(const struct lm_audit *a, const struct audit_opts *o)
{
    print_summary(a);
    putchar('\n');
    if (a->m && !a->o.headers_only) {
        print_roles(a, o->tensors);
        putchar('\n');
    }
    print_engines(a);
    print_memory(&a->memory);
    putchar('\n');
    print_findings(a, o->all);
}
