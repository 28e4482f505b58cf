/* What an importance file holds: magnitudes, and what the text did not reach. */
#include <math.h>
#include <stdlib.h>

#include "cmd/account.h"
#include "cmd/calibrate.h"

/* Of one tensor. */
struct seen {
    size_t columns, matrices;
    uint64_t tokens;             /* all counts */
    double mean, most;           /* of mean squares, over columns that were reached */
    size_t n_zero;               /* columns that were always 0, of matrices that were reached */
    size_t n_unseen, n_rare;     /* matrices; rare: fewer than a tenth of an even share */
    int64_t least, median, largest;
};

static int by_count(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void see_counts(struct seen *s, const struct lm_imatrix_entry *x)
{
    int64_t *sorted = malloc(x->n_counts * sizeof *sorted);

    for (size_t k = 0; k < x->n_counts; k++)
        s->tokens += (uint64_t)x->counts[k];
    for (size_t k = 0; k < x->n_counts; k++) {
        s->n_unseen += x->counts[k] == 0;
        s->n_rare += x->counts[k] > 0 && (double)x->counts[k] < (double)s->tokens / (double)x->n_counts / 10;
    }
    if (!sorted)
        return;
    memcpy(sorted, x->counts, x->n_counts * sizeof *sorted);
    qsort(sorted, x->n_counts, sizeof *sorted, by_count);
    s->least = sorted[0];
    s->median = sorted[x->n_counts / 2];
    s->largest = sorted[x->n_counts - 1];
    free(sorted);
}

static struct seen see(const struct lm_imatrix_entry *x)
{
    struct seen s = {.columns = x->n_values / x->n_counts, .matrices = x->n_counts};
    size_t reached = 0;

    see_counts(&s, x);
    for (size_t i = 0; i < x->n_values; i++) {
        int64_t count = x->counts[i / s.columns];
        double v = count > 0 ? (double)lm_load_f32le(x->sums + 4 * i) / (double)count : 0;
        reached += count > 0;
        s.mean += v;
        s.most = v > s.most ? v : s.most;
        s.n_zero += count > 0 && v <= 0;
    }
    s.mean /= reached ? (double)reached : 1;
    return s;
}

/* One of the three matrices of an expert, to speak for it. */
static bool is_of_experts(const char *name)
{
    return strstr(name, "ffn_down_exps.") != NULL;
}

/* ---- warnings */

void calibrate_warn(const struct lm_imatrix *m)
{
    size_t unseen = 0, rare = 0, all = 0, zero = 0;

    for (size_t i = 0; i < lm_imatrix_count(m); i++) {
        const struct lm_imatrix_entry *x = lm_imatrix_at(m, i);
        struct seen s = see(x);
        zero += s.n_zero;
        if (!is_of_experts(x->name))
            continue;
        unseen += s.n_unseen;
        rare += s.n_rare;
        all += s.matrices;
    }
    if (unseen)
        cli_note("%s: note: the text never reached %zu of %zu experts in all layers: more and more varied text would help",
                 cli_name(), unseen, all);
    if (rare)
        cli_note("%s: note: the text gave %zu of %zu experts less than a tenth of an even share", cli_name(), rare, all);
    if (zero)
        cli_note("%s: note: %zu columns were 0 for every token", cli_name(), zero);
}

/* ---- for people */

static void print_matrix(struct cli_table *t, const char *name, size_t layers, const struct seen *s)
{
    char n_layers[32], columns[32], tokens[32], mean[32], most[32], zero[32];

    snprintf(n_layers, sizeof n_layers, "%zu", layers);
    snprintf(mean, sizeof mean, "%.4g", s->mean);
    snprintf(most, sizeof most, "%.1f", s->mean > 0 ? s->most / s->mean : 0);
    cli_table_row(t, name, n_layers, cli_count(columns, sizeof columns, s->columns),
                  cli_count(tokens, sizeof tokens, s->tokens), mean, most, cli_count(zero, sizeof zero, s->n_zero));
}

/* Those that differ only in the layer in one line. */
struct line { char name[256]; size_t n; struct seen s; };

static void add_to_line(struct line *l, const struct seen *s)
{
    l->s.mean += s->mean;
    l->s.most = s->most > l->s.most ? s->most : l->s.most;
    l->s.n_zero += s->n_zero;
    l->n++;
}

static size_t fold(struct line *lines, const struct lm_imatrix *m, bool full)
{
    size_t n = 0, k;

    for (size_t i = 0; i < lm_imatrix_count(m); i++) {
        const struct lm_imatrix_entry *x = lm_imatrix_at(m, i);
        struct seen s = see(x);
        struct line *l = &lines[n];
        *l = (struct line){.s = {.columns = s.columns, .tokens = s.tokens}};
        snprintf(l->name, sizeof l->name, "%s", cli_safe(lm_span_str(x->name)));
        if (!full)
            account_fold(l->name);
        for (k = 0; strcmp(lines[k].name, l->name) != 0 || lines[k].s.columns != s.columns || lines[k].s.tokens != s.tokens; k++)
            ;
        n += k == n;
        add_to_line(&lines[k], &s);
    }
    return n;
}

static void print_matrices(const struct lm_imatrix *m, bool full)
{
    static const char *const heads[] = {"matrix", "layers", "columns", "tokens", "mean square", "largest/mean",
                                        "always 0", NULL};
    struct line *lines = calloc(lm_imatrix_count(m) + 1, sizeof *lines);
    struct cli_table *t = lines ? cli_table_new(heads, "lrrrrrr") : NULL;
    size_t n = t ? fold(lines, m, full) : 0;

    for (size_t i = 0; i < n; i++) {
        lines[i].s.mean /= (double)lines[i].n;
        print_matrix(t, lines[i].name, lines[i].n, &lines[i].s);
    }
    if (t)
        cli_table_print(t, stdout);
    free(lines);
}

/* The first few that no token reached. */
static void name_unseen(const struct lm_imatrix_entry *x, char *buf, size_t size)
{
    size_t n = 0, used = 0;

    buf[0] = 0;
    for (size_t k = 0; k < x->n_counts; k++) {
        if (x->counts[k] != 0)
            continue;
        if (n++ == 6) {
            snprintf(buf + used, size - used, " …");
            return;
        }
        used += (size_t)snprintf(buf + used, size - used, "%s%zu", n > 1 ? " " : "", k);
    }
}

static void print_experts(const struct lm_imatrix *m)
{
    static const char *const heads[] = {"experts of", "n", "never", "rare", "fewest tokens", "median", "most",
                                        "never reached", NULL};
    struct cli_table *t = NULL;
    char n[32], never[32], rare[32], least[32], median[32], most[32], names[100];

    for (size_t i = 0; i < lm_imatrix_count(m); i++) {
        const struct lm_imatrix_entry *x = lm_imatrix_at(m, i);
        if (!is_of_experts(x->name))
            continue;
        if (!t && !(t = cli_table_new(heads, "lrrrrrrl")))
            return;
        struct seen s = see(x);
        snprintf(n, sizeof n, "%zu", s.matrices);
        snprintf(never, sizeof never, "%zu", s.n_unseen);
        snprintf(rare, sizeof rare, "%zu", s.n_rare);
        name_unseen(x, names, sizeof names);
        const char *dot = strstr(x->name, ".ffn_down");
        cli_table_row(t, cli_safe(lm_span_of(x->name, (size_t)(dot ? dot - x->name : 0))), n, never, rare,
                      cli_count(least, sizeof least, (uint64_t)s.least), cli_count(median, sizeof median, (uint64_t)s.median),
                      cli_count(most, sizeof most, (uint64_t)s.largest), names);
    }
    if (!t)
        return;
    printf("\n");
    cli_table_print(t, stdout);
}

static void print_head(const struct lm_imatrix *m, const struct calibrate_done *d)
{
    char tokens[32];

    if (d->model)
        printf("model         %s\ndevice        %s\n", cli_safe(lm_span_str(d->model)), d->device);
    for (size_t i = 0; i < lm_imatrix_n_datasets(m); i++)
        printf("%s%s\n", i == 0 ? "text          " : "              ", cli_safe(lm_span_str(lm_imatrix_dataset(m, i))));
    printf("chunks        %u", lm_imatrix_chunks(m));
    if (lm_imatrix_chunk_size(m))
        printf(" of %u tokens", lm_imatrix_chunk_size(m));
    printf("\nmatrices      %zu\n\n", lm_imatrix_count(m));
    if (d->model)
        printf("tokens run    %s in %.1f s, %.0f/s\n\n", cli_count(tokens, sizeof tokens, d->tokens), d->seconds,
               d->seconds > 0 ? (double)d->tokens / d->seconds : 0);
}

void calibrate_print(const struct lm_imatrix *m, const struct calibrate_done *d, bool full)
{
    char bytes[32];

    print_head(m, d);
    print_matrices(m, full);
    print_experts(m);
    if (d->out)
        printf("\n%s: written, %s\n", cli_safe(lm_span_str(d->out)), cli_bytes(bytes, sizeof bytes, d->n_bytes));
}

/* ---- for scripts */

static json_t *entry_json(const struct lm_imatrix_entry *x)
{
    struct seen s = see(x);
    json_t *o = json_object(), *counts = json_array();

    for (size_t k = 0; k < x->n_counts; k++)
        json_array_append_new(counts, json_integer(x->counts[k]));
    json_object_set_new(o, "name", cli_json_str(lm_span_str(x->name)));
    json_object_set_new(o, "columns", json_integer((json_int_t)s.columns));
    json_object_set_new(o, "tokens", counts);
    json_object_set_new(o, "mean", cli_json_real(s.mean));
    json_object_set_new(o, "max", cli_json_real(s.most));
    json_object_set_new(o, "n_zero", json_integer((json_int_t)s.n_zero));
    json_object_set_new(o, "n_unseen", json_integer((json_int_t)s.n_unseen));
    json_object_set_new(o, "n_rare", json_integer((json_int_t)s.n_rare));
    return o;
}

json_t *calibrate_json(const struct lm_imatrix *m, const struct calibrate_done *d)
{
    json_t *o = json_object(), *entries = json_array(), *texts = json_array();

    for (size_t i = 0; i < lm_imatrix_n_datasets(m); i++)
        json_array_append_new(texts, cli_json_str(lm_span_str(lm_imatrix_dataset(m, i))));
    for (size_t i = 0; i < lm_imatrix_count(m); i++)
        json_array_append_new(entries, entry_json(lm_imatrix_at(m, i)));
    json_object_set_new(o, "model", d->model ? cli_json_str(lm_span_str(d->model)) : json_null());
    json_object_set_new(o, "device", d->model ? json_string(d->device) : json_null());
    json_object_set_new(o, "destination", d->out ? cli_json_str(lm_span_str(d->out)) : json_null());
    json_object_set_new(o, "texts", texts);
    json_object_set_new(o, "n_chunks", json_integer(lm_imatrix_chunks(m)));
    json_object_set_new(o, "chunk_size", json_integer(lm_imatrix_chunk_size(m)));
    json_object_set_new(o, "n_tokens", json_integer((json_int_t)d->tokens));
    json_object_set_new(o, "seconds", cli_json_real(d->seconds));
    json_object_set_new(o, "matrices", entries);
    return o;
}
