/* lm-diff: what differs between two checkpoints, whatever files they lie in. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>

#include "cmd/cli.h"
#include "convert/diff.h"

enum { ACCEPT_EXACT, ACCEPT_CAST, ACCEPT_QUANTIZED };

struct options {
    int accept, threads;
    bool full, all, json, no_text;
};

static const char *const accepts[] = {"exact", "cast", "quantized", NULL};

static const struct cli_opt opts[] = {
    {"accept", 0, CLI_CHOICE, NULL, offsetof(struct options, accept),
     "What still counts as equal for the exit code: equal values (exact, the default), also their exact rounding to "
     "another type (cast), also what quantization explains (quantized).", accepts},
    {"full", 0, CLI_FLAG, NULL, offsetof(struct options, full), "One line a tensor, layers not folded.", NULL},
    {"all", 'a', CLI_FLAG, NULL, offsetof(struct options, all), "Also tensors that are the same.", NULL},
    {"tensors", 't', CLI_FLAG, NULL, offsetof(struct options, no_text),
     "Tensors only: configuration, metadata and tokenizer are neither shown nor counted.", NULL},
    {"threads", 0, CLI_INT, "N", offsetof(struct options, threads), "Threads (default: all cores).", NULL},
    {"json", 0, CLI_FLAG, NULL, offsetof(struct options, json), "JSON on standard output.", NULL},
    {NULL, 0, CLI_FLAG, NULL, 0, NULL, NULL},
};

static const struct cli_cmd cmd = {
    .name = "lm-diff",
    .brief = "compare two checkpoints across containers, names, types and shards",
    .synopsis = "A B",
    .about =
        "Matches the tensors of two checkpoints by what they are for and compares their values in one order, so that "
        "a GGUF can be compared with the Hugging Face folder it was made from. Each pair is one of: same (equal "
        "values, whatever the type), cast (exactly the rounding to the other type), quantized (as near as the type "
        "allows, measured against the reference quantizer on the values at hand), transformed (equal after the named "
        "accident: heads permuted twice or not at all, transposed, 1 added, multiplied), changed, shape, or only in A "
        "or B.\n"
        "\n"
        "relative is |B - A| / |A|; rank is the numerical rank of B - A from a random sketch, as far as it stands out "
        "of rounding: a small one says that a low-rank update was merged. Tensors that differ only in the layer are "
        "one line. The exit code is 1 when anything differs that --accept does not allow; metadata of the container "
        "are shown and not counted.\n"
        "\n"
        "With --json: a and b (path format architecture), equal, counts (a number for each kind), tensors (name role "
        "layer kind what a b n_compared n_differ rows_added relative cosine largest largest_at expected rank "
        "rank_limit; a and b with name dtype shape) and notes (where key a b).\n",
    .opts = opts,
    .examples = "  $ lm-diff bielik-7b/ bielik-7b.gguf\n"
                "  $ lm-diff --accept quantized bielik-7b/ bielik-7b-q4_k_m.gguf\n"
                "  $ lm-diff base/ fine-tuned/\n",
    .min_args = 2,
    .max_args = 2,
};

/* ---- groups of tensors that differ only in the layer */

struct group {
    const char *name;
    const struct lm_diff_tensor *first;
    const char *what;
    bool *layers; /* [n_layers] */
    size_t n;
    double low, high, largest, cosine;
    uint64_t n_differ, n_compared;
    uint32_t rank_low, rank_high, rank_limit;
    bool has_rank;
};

struct view {
    const struct lm_diff *d;
    const struct options *o;
    struct group *groups;
    size_t n_groups;
    int n_layers;
    struct lm_arena arena;
};

/* The name with # for the layer's number. */
static const char *fold_name(struct lm_arena *a, const struct lm_diff_tensor *t)
{
    char number[16], *out = lm_arena_str(a, lm_span_str(t->name));

    if (!out || t->layer < 0)
        return out;
    snprintf(number, sizeof number, ".%d.", t->layer);
    char *at = strstr(out, number);
    if (at) {
        at[1] = '#';
        memmove(at + 2, at + strlen(number) - 1, strlen(at + strlen(number) - 1) + 1);
    }
    return out;
}

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

static struct group *group_of(struct view *v, const struct lm_diff_tensor *t)
{
    const char *name = v->o->full ? t->name : fold_name(&v->arena, t);

    for (size_t i = 0; i < v->n_groups && !v->o->full; i++) {
        struct group *g = &v->groups[i];
        if (g->first->kind == t->kind && strcmp(g->name, name) == 0 && strcmp(or_empty(g->what), or_empty(t->what)) == 0)
            return g;
    }
    struct group *g = &v->groups[v->n_groups++];
    *g = (struct group){.name = name, .first = t, .what = t->what, .low = INFINITY, .rank_low = UINT32_MAX, .cosine = 1,
                        .layers = lm_arena_array(&v->arena, (size_t)v->n_layers + 1, sizeof(bool))};
    return g;
}

static void add_to_group(struct group *g, const struct lm_diff_tensor *t)
{
    g->n++;
    if (g->layers && t->layer >= 0)
        g->layers[t->layer] = true;
    g->low = fmin(g->low, t->relative);
    g->high = fmax(g->high, t->relative);
    g->largest = fmax(g->largest, t->largest);
    g->cosine = fmin(g->cosine, t->cosine);
    g->n_differ += t->n_differ;
    g->n_compared += t->n_compared;
    if (!t->has_rank)
        return;
    g->has_rank = true;
    g->rank_low = t->rank < g->rank_low ? t->rank : g->rank_low;
    g->rank_high = t->rank > g->rank_high ? t->rank : g->rank_high;
    g->rank_limit = t->rank_limit;
}

static int make_groups(struct view *v)
{
    v->groups = calloc(v->d->n_tensors + 1, sizeof *v->groups);
    if (!v->groups)
        return -1;
    for (size_t i = 0; i < v->d->n_tensors; i++)
        if (v->d->tensors[i].layer >= v->n_layers)
            v->n_layers = v->d->tensors[i].layer + 1;
    for (size_t i = 0; i < v->d->n_tensors; i++)
        add_to_group(group_of(v, &v->d->tensors[i]), &v->d->tensors[i]);
    return 0;
}

/* "0-3, 7" */
static const char *layer_list(const struct view *v, const bool *in, char *buf, size_t size)
{
    size_t n = 0;

    buf[0] = 0;
    for (int i = 0; in && i < v->n_layers && n + 32 < size; i++) {
        int end = i;
        if (!in[i])
            continue;
        while (end + 1 < v->n_layers && in[end + 1])
            end++;
        n += (size_t)snprintf(buf + n, size - n, end > i ? "%s%d-%d" : "%s%d", n ? ", " : "", i, end);
        i = end;
    }
    return buf;
}

/* ---- text */

static void print_side(char letter, struct lm_model *m, const char *arch)
{
    printf("%c         %s (%s, %s)\n", letter, cli_safe(lm_span_str(lm_model_path(m))), lm_model_format(m)->title,
           arch ? arch : "architecture not known");
}

static void print_counts(const struct lm_diff *d)
{
    const char *between = "";

    printf("tensors   ");
    for (int k = LM_N_DIFF_KINDS - 1; k >= 0; k--)
        if (d->n_of[k]) {
            printf("%s%zu %s", between, d->n_of[k], lm_diff_kind_name((enum lm_diff_kind)k));
            between = ", ";
        }
    printf("%s\n", *between ? "" : "none");
}

static const char *rank_text(const struct group *g, char *buf, size_t size)
{
    if (!g->has_rank)
        return "";
    if (4 * g->rank_low > 3 * g->rank_limit)
        snprintf(buf, size, "full");
    else if (g->rank_low == g->rank_high)
        snprintf(buf, size, "%u", g->rank_high);
    else
        snprintf(buf, size, "%u-%u", g->rank_low, g->rank_high);
    return buf;
}

static bool is_low_rank(const struct group *g)
{
    return g->first->kind == LM_DIFF_CHANGED && g->has_rank && 2 * g->rank_high <= g->rank_limit && g->rank_high > 0;
}

static void print_low_rank(const struct view *v)
{
    for (size_t i = 0; i < v->n_groups; i++) {
        const struct group *g = &v->groups[i];
        char rank[40], layers[200];
        if (!is_low_rank(g) || v->o->full)
            continue;
        printf("update    rank %s of %s", rank_text(g, rank, sizeof rank), cli_safe(lm_span_str(g->name)));
        if (g->first->layer >= 0)
            printf(" in layers %s", layer_list(v, g->layers, layers, sizeof layers));
        putchar('\n');
    }
}

static void print_frozen(struct view *v)
{
    bool *same = lm_arena_array(&v->arena, (size_t)v->n_layers + 1, sizeof *same);
    char text[400];
    bool any = false, all = true;

    for (int i = 0; same && i < v->n_layers; i++)
        same[i] = true;
    for (size_t i = 0; same && i < v->d->n_tensors; i++)
        if (v->d->tensors[i].layer >= 0 && v->d->tensors[i].kind != LM_DIFF_SAME)
            same[v->d->tensors[i].layer] = false;
    for (int i = 0; same && i < v->n_layers; i++) {
        any |= same[i];
        all &= same[i];
    }
    if (any && !all)
        printf("frozen    layers %s\n", layer_list(v, same, text, sizeof text));
}

static void add_row(struct cli_table *t, const struct view *v, const struct group *g)
{
    char layers[120], relative[64] = "", cosine[32] = "", rank[40], share[32] = "", what[700];
    enum lm_diff_kind k = g->first->kind;

    if (k == LM_DIFF_CHANGED || k == LM_DIFF_QUANTIZED || k == LM_DIFF_CAST || k == LM_DIFF_TRANSFORM) {
        if (g->high > 1.05 * g->low)
            snprintf(relative, sizeof relative, "%.3g-%.3g", g->low, g->high);
        else
            snprintf(relative, sizeof relative, "%.3g", g->high);
        snprintf(cosine, sizeof cosine, "%.6f", g->cosine);
        snprintf(share, sizeof share, "%.2f %%", g->n_compared ? 100.0 * (double)g->n_differ / (double)g->n_compared : 0);
    }
    if (k == LM_DIFF_SHAPE) {
        char a[120], b[120];
        snprintf(what, sizeof what, "%s and %s", lm_tensor_shape_str(g->first->a, a, sizeof a),
                 lm_tensor_shape_str(g->first->b, b, sizeof b));
    } else {
        snprintf(what, sizeof what, "%s", or_empty(g->what));
    }
    cli_table_row(t, cli_safe(lm_span_str(g->name)), layer_list(v, g->layers, layers, sizeof layers),
                  lm_diff_kind_name(k), relative, cosine, share, rank_text(g, rank, sizeof rank), what);
}

static void print_tensors(const struct view *v)
{
    static const char *const heads[] = {"tensor", "layers", "verdict", "relative", "cosine", "differing", "rank", ""};
    struct cli_table *t;
    size_t n = v->o->all ? v->d->n_tensors : v->d->n_tensors - v->d->n_of[LM_DIFF_SAME];

    if (n == 0)
        return;
    t = cli_table_new(heads, "lllrrrrl");
    putchar('\n');
    for (size_t i = 0; i < v->n_groups; i++)
        if (v->groups[i].first->kind != LM_DIFF_SAME || v->o->all)
            add_row(t, v, &v->groups[i]);
    cli_table_print(t, stdout);
}

static const char *side_text(const char *s)
{
    return s ? cli_safe(lm_span_str(s)) : "-";
}

static void print_notes(const struct lm_diff *d)
{
    static const char *const heads[] = {"where", "key", "A", "B"};
    struct cli_table *t;

    if (d->n_notes == 0)
        return;
    t = cli_table_new(heads, "llll");
    putchar('\n');
    for (size_t i = 0; i < d->n_notes; i++)
        cli_table_row(t, d->notes[i].where, cli_safe(lm_span_str(d->notes[i].key)), side_text(d->notes[i].a),
                      side_text(d->notes[i].b));
    cli_table_print(t, stdout);
}

static void print_diff(struct view *v, struct lm_model *a, struct lm_model *b)
{
    print_side('A', a, v->d->arch_a);
    print_side('B', b, v->d->arch_b);
    print_counts(v->d);
    print_low_rank(v);
    print_frozen(v);
    print_tensors(v);
    if (!v->o->no_text)
        print_notes(v->d);
}

/* ---- JSON */

static json_t *str_json(const char *s)
{
    return s ? cli_json_str(lm_span_str(s)) : json_null();
}

static json_t *int_json(uint64_t v)
{
    return json_integer((json_int_t)v);
}

static json_t *source_json(const struct lm_tensor *t)
{
    json_t *shape = json_array();

    if (!t) {
        json_decref(shape);
        return json_null();
    }
    for (unsigned i = 0; i < t->n_dims; i++)
        json_array_append_new(shape, int_json(t->shape[i]));
    return json_pack("{s:o, s:s, s:o}", "name", str_json(t->name), "dtype", lm_dtype_name(t->dtype), "shape", shape);
}

static json_t *tensor_json(const struct lm_diff_tensor *t)
{
    json_t *o = json_object();

    json_object_set_new(o, "name", str_json(t->name));
    json_object_set_new(o, "role", json_string(lm_role_name(t->role)));
    json_object_set_new(o, "layer", json_integer(t->layer));
    json_object_set_new(o, "kind", json_string(lm_diff_kind_name(t->kind)));
    json_object_set_new(o, "what", str_json(t->what));
    json_object_set_new(o, "a", source_json(t->a));
    json_object_set_new(o, "b", source_json(t->b));
    json_object_set_new(o, "n_compared", int_json(t->n_compared));
    json_object_set_new(o, "n_differ", int_json(t->n_differ));
    json_object_set_new(o, "rows_added", json_integer(t->rows_added));
    json_object_set_new(o, "relative", cli_json_real(t->relative));
    json_object_set_new(o, "cosine", cli_json_real(t->cosine));
    json_object_set_new(o, "largest", cli_json_real(t->largest));
    json_object_set_new(o, "largest_at", int_json(t->largest_at));
    json_object_set_new(o, "expected", cli_json_real(t->expected));
    json_object_set_new(o, "rank", t->has_rank ? json_integer(t->rank) : json_null());
    json_object_set_new(o, "rank_limit", t->has_rank ? json_integer(t->rank_limit) : json_null());
    return o;
}

static json_t *side_json(struct lm_model *m, const char *arch)
{
    return json_pack("{s:o, s:s, s:o}", "path", str_json(lm_model_path(m)), "format", lm_model_format(m)->name,
                     "architecture", str_json(arch));
}

static void print_json(const struct view *v, struct lm_model *a, struct lm_model *b, bool equal)
{
    json_t *o = json_object(), *counts = json_object(), *tensors = json_array(), *notes = json_array();

    for (int k = 0; k < LM_N_DIFF_KINDS; k++)
        json_object_set_new(counts, lm_diff_kind_name((enum lm_diff_kind)k), int_json(v->d->n_of[k]));
    for (size_t i = 0; i < v->d->n_tensors; i++)
        json_array_append_new(tensors, tensor_json(&v->d->tensors[i]));
    for (size_t i = 0; i < v->d->n_notes && !v->o->no_text; i++) {
        const struct lm_diff_note *n = &v->d->notes[i];
        json_array_append_new(notes, json_pack("{s:s, s:o, s:o, s:o}", "where", n->where, "key", str_json(n->key), "a",
                                               str_json(n->a), "b", str_json(n->b)));
    }
    json_object_set_new(o, "a", side_json(a, v->d->arch_a));
    json_object_set_new(o, "b", side_json(b, v->d->arch_b));
    json_object_set_new(o, "equal", json_boolean(equal));
    json_object_set_new(o, "counts", counts);
    json_object_set_new(o, "tensors", tensors);
    json_object_set_new(o, "notes", notes);
    cli_json_print(o);
}

/* ---- the command */

static bool is_equal(const struct lm_diff *d, const struct options *o)
{
    enum lm_diff_kind first = o->accept == ACCEPT_QUANTIZED ? LM_DIFF_QUANTIZED
                              : o->accept == ACCEPT_CAST    ? LM_DIFF_CAST
                                                            : LM_DIFF_SAME;

    for (int k = 0; k < (int)first; k++)
        if (d->n_of[k])
            return false;
    for (size_t i = 0; i < d->n_notes && !o->no_text; i++)
        if (strcmp(d->notes[i].where, "metadata") != 0)
            return false;
    return true;
}

static int run(const struct options *o, char **argv, bool *equal, struct lm_err *e)
{
    struct cli_progress bar;
    struct lm_run_options run = {.n_threads = o->threads, .stop = &cli_stop, .progress = cli_progress, .user = &bar};
    struct lm_model *a = NULL, *b = NULL;
    struct lm_diff *d = NULL;
    int rc = lm_model_open(&a, argv[1], e) || lm_model_open(&b, argv[2], e) ? -1 : 0;

    cli_catch_signals();
    cli_progress_begin(&bar, "comparing");
    if (rc == 0)
        rc = lm_diff_models(&d, a, b, &run, e);
    cli_progress_end(&bar);
    struct view v = {.d = d, .o = o};
    if (rc == 0 && make_groups(&v))
        rc = lm_err_set(e, LM_NOMEM, "out of memory");
    if (rc == 0) {
        *equal = is_equal(d, o);
        if (o->json)
            print_json(&v, a, b, *equal);
        else
            print_diff(&v, a, b);
    }
    free(v.groups);
    lm_arena_free(&v.arena);
    lm_diff_free(d);
    lm_model_close(a);
    lm_model_close(b);
    return rc;
}

int main(int argc, char **argv)
{
    struct options o = {0};
    struct lm_err e;
    bool equal = false;

    cli_parse(&cmd, argc, argv, &o);
    if (run(&o, argv, &equal, &e))
        return cli_finish(cli_fail(&e));
    return cli_finish(equal ? CLI_OK : CLI_DIFFERENT);
}
