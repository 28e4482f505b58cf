#include "cmd/account.h"

#include <ctype.h>
#include <stdlib.h>

/* ---- counting */

uint64_t account_bytes(const struct lm_plan_item *it)
{
    return lm_dtype_bytes(it->dtype, lm_plan_elems(it));
}

static void count_item(struct account *a, const struct lm_plan_item *it)
{
    switch (lm_plan_action(it)) {
    case LM_ACTION_COPY: a->copied++; break;
    case LM_ACTION_CAST: a->cast++; break;
    case LM_ACTION_QUANTIZE: a->quantized++; break;
    case LM_ACTION_MAKE: a->made++; break;
    }
    a->renamed += it->src && strcmp(it->src->name, it->name) != 0;
    a->permuted += it->transform == LM_T_PERMUTE_Q || it->transform == LM_T_PERMUTE_K;
    a->transposed += it->transform == LM_T_TRANSPOSE;
    a->n_overflow += it->n_overflow;
    a->n_flushed += it->n_flushed;
    a->n_nan += it->n_nan;
    a->n_params += lm_plan_elems(it);
    a->n_bytes += account_bytes(it);
}

/* Tensors that pieces come from: a second one is joined to the first, one that was there before is split. */
static void count_pieces(struct account *a, struct lm_map *seen, const struct lm_plan_item *it)
{
    for (size_t i = 0; i < it->n_pieces; i++) {
        const struct lm_tensor *t = it->pieces[i].src;
        if (i > 0 && t == it->pieces[i - 1].src)
            continue;
        bool again = lm_map_get(seen, lm_span_str(t->name)) != SIZE_MAX;
        a->joined += i > 0 && !again;
        a->split += i == 0 && again;
        if (!again)
            lm_map_put(seen, lm_span_str(t->name), 0);
    }
}

void account_count(struct account *a, const struct lm_plan *p)
{
    struct lm_map *seen = lm_map_new(p->n_items);

    *a = (struct account){.n_source = lm_model_n_tensors(p->src), .dropped = p->n_drops};
    for (size_t i = 0; i < p->n_items; i++) {
        count_item(a, &p->items[i]);
        if (seen)
            count_pieces(a, seen, &p->items[i]);
    }
    lm_map_free(seen);
}

/* ---- lines of the table */

struct line { char *source, *name, *how, *types; size_t n; };
struct lines { struct line *of; size_t n; struct lm_map *by_text; struct lm_arena arena; };

void account_fold(char *name)
{
    char *out = name;

    for (const char *s = name; *s;) {
        bool begins = s == name || s[-1] == '.';
        size_t n = strspn(s, "0123456789");
        if (begins && n > 0 && (s[n] == '.' || s[n] == 0)) {
            *out++ = '#';
            s += n;
        } else
            *out++ = *s++;
    }
    *out = 0;
}

static char *text(struct lines *l, const char *s, bool folded)
{
    char *t = lm_arena_str(&l->arena, lm_span_str(s));

    if (t && folded)
        account_fold(t);
    return t;
}

/* The same line again only raises its count. */
static void add_line(struct lines *l, struct line line)
{
    char key[2048];
    size_t n = (size_t)snprintf(key, sizeof key, "%s\n%s\n%s\n%s", line.source, line.name, line.how, line.types);
    char *own = lm_arena_str(&l->arena, lm_span_of(key, n < sizeof key ? n : sizeof key - 1));
    size_t at = lm_map_get(l->by_text, lm_span_str(own));

    if (at != SIZE_MAX) {
        l->of[at].n++;
        return;
    }
    lm_map_put(l->by_text, lm_span_str(own), l->n);
    line.n = 1;
    l->of[l->n++] = line;
}

static void describe(char *buf, size_t size, const struct lm_plan_item *it)
{
    static const char *const words[] = {"copied", "cast", "quantized", "made"};
    bool repacked = it->src && it->src->packed && lm_plan_action(it) == LM_ACTION_COPY;
    size_t n = (size_t)snprintf(buf, size, "%s", repacked ? "repacked" : words[lm_plan_action(it)]);

    if (it->src && it->src->packed && !it->packs)
        n += (size_t)snprintf(buf + n, size - n, " from %s", lm_tensor_scheme(it->src));
    if (it->transform == LM_T_PERMUTE_Q || it->transform == LM_T_PERMUTE_K)
        n += (size_t)snprintf(buf + n, size - n, ", permuted (%u heads)", it->n_heads);
    if (it->transform == LM_T_TRANSPOSE)
        n += (size_t)snprintf(buf + n, size - n, ", transposed");
    if (it->transform > LM_T_TRANSPOSE)
        n += (size_t)snprintf(buf + n, size - n, ", %s%s", lm_transform_name(it->transform), it->inverse ? " undone" : "");
    if (it->n_overflow)
        n += (size_t)snprintf(buf + n, size - n, ", %llu overflowed", (unsigned long long)it->n_overflow);
    if (it->n_flushed)
        n += (size_t)snprintf(buf + n, size - n, ", %llu flushed to zero", (unsigned long long)it->n_flushed);
    if (it->n_nan)
        n += (size_t)snprintf(buf + n, size - n, ", %llu not finite", (unsigned long long)it->n_nan);
    if (it->why)
        snprintf(buf + n, size - n, ": %s", it->why);
}

static void add_item(struct lines *l, const struct lm_plan_item *it, bool full)
{
    char how[512], types[64];
    const char *to = lm_dtype_name(it->dtype);

    describe(how, sizeof how, it);
    if (!it->src || it->src->dtype == it->dtype)
        snprintf(types, sizeof types, "%s", to);
    else
        snprintf(types, sizeof types, "%s > %s", lm_dtype_name(it->src->dtype), to);
    add_line(l, (struct line){.source = text(l, it->src ? it->src->name : "", !full), .name = text(l, it->name, !full),
                              .how = text(l, how, false), .types = text(l, types, false)});
}

static void add_drop(struct lines *l, const struct lm_plan_drop *d, bool full)
{
    char how[512];

    snprintf(how, sizeof how, "dropped: %s", d->why);
    add_line(l, (struct line){.source = text(l, d->src->name, !full), .name = text(l, "", false),
                              .how = text(l, how, false), .types = text(l, lm_dtype_name(d->src->dtype), false)});
}

static void print_lines(const struct lines *l)
{
    static const char *const heads[] = {"SOURCE", "N", "RESULT", "TYPE", "HOW", NULL};
    struct cli_table *t = cli_table_new(heads, "lrlll");
    char n[32];

    for (size_t i = 0; i < l->n; i++) {
        const struct line *x = &l->of[i];
        snprintf(n, sizeof n, "%zu", x->n);
        cli_table_row(t, cli_safe(lm_span_str(x->source)), n, cli_safe(lm_span_str(x->name)), x->types, x->how);
    }
    cli_table_print(t, stdout);
}

void account_print(const struct lm_plan *p, bool full)
{
    struct lines l = {.of = calloc(p->n_items + p->n_drops + 1, sizeof *l.of),
                      .by_text = lm_map_new(p->n_items + p->n_drops)};

    if (l.of && l.by_text) {
        for (size_t i = 0; i < p->n_items; i++)
            add_item(&l, &p->items[i], full);
        for (size_t i = 0; i < p->n_drops; i++)
            add_drop(&l, &p->drops[i], full);
        print_lines(&l);
    }
    lm_map_free(l.by_text);
    lm_arena_free(&l.arena);
    free(l.of);
    account_print_totals(p);
}

/* ---- totals */

void account_print_totals(const struct lm_plan *p)
{
    struct account a;
    char bytes[32];

    account_count(&a, p);
    printf("%zu source tensors = %zu copied + %zu cast + %zu quantized + %zu dropped", a.n_source, a.copied, a.cast,
           a.quantized, a.dropped);
    if (a.joined || a.split)
        printf(" + %zu joined - %zu split", a.joined, a.split);
    printf("; %zu renamed, %zu permuted, %zu transposed, %zu split, %zu made\n", a.renamed, a.permuted, a.transposed,
           a.split, a.made);
    if (a.n_overflow || a.n_flushed || a.n_nan)
        printf("casts: %llu values became infinite, %llu became zero, %llu were not finite before\n",
               (unsigned long long)a.n_overflow, (unsigned long long)a.n_flushed, (unsigned long long)a.n_nan);
    printf("%s: %s in all%s\n", p->req.to->title, cli_bytes(bytes, sizeof bytes, p->n_dst_bytes),
           p->exact ? ", the original files byte for byte" : "");
}

void account_print_notes(const struct lm_plan *p)
{
    for (size_t i = 0; i < p->n_notes; i++)
        cli_note("%s", p->notes[i]);
}

static void type_row(struct cli_table *t, const struct lm_plan *p, enum lm_dtype d, uint64_t all)
{
    uint64_t n = 0, params = 0, bytes = 0;
    char c[5][40];

    for (size_t i = 0; i < p->n_items; i++)
        if (p->items[i].dtype == d) {
            n++;
            params += lm_plan_elems(&p->items[i]);
            bytes += account_bytes(&p->items[i]);
        }
    if (n == 0)
        return;
    snprintf(c[0], sizeof c[0], "%.2f %%", all ? 100.0 * (double)params / (double)all : 0.0);
    snprintf(c[1], sizeof c[1], "%.4g", params ? 8.0 * (double)bytes / (double)params : 0.0);
    cli_table_row(t, lm_dtype_name(d), cli_count(c[2], sizeof c[2], n), cli_count(c[3], sizeof c[3], params), c[0],
                  cli_bytes(c[4], sizeof c[4], bytes), c[1]);
}

static void print_fallbacks(const struct lm_plan *p)
{
    struct lines l = {.of = calloc(p->n_items + 1, sizeof *l.of), .by_text = lm_map_new(p->n_items)};
    uint64_t all = 0, hit = 0;
    size_t n = 0;

    for (size_t i = 0; l.of && l.by_text && i < p->n_items; i++) {
        const struct lm_plan_item *it = &p->items[i];
        all += lm_plan_elems(it);
        if (!it->src || !it->why)
            continue;
        n++;
        hit += lm_plan_elems(it);
        add_line(&l, (struct line){.source = text(&l, it->name, true), .name = text(&l, "", false),
                                   .how = text(&l, it->why, false), .types = text(&l, "", false)});
    }
    if (n > 0)
        printf("%zu tensors (%.1f %% of the parameters) do not fit the type asked for:\n", n,
               100.0 * (double)hit / (double)all);
    for (size_t i = 0; i < l.n; i++)
        printf("  %s x %zu: %s\n", cli_safe(lm_span_str(l.of[i].source)), l.of[i].n, l.of[i].how);
    lm_map_free(l.by_text);
    lm_arena_free(&l.arena);
    free(l.of);
}

void account_print_types(const struct lm_plan *p)
{
    static const char *const heads[] = {"TYPE", "TENSORS", "PARAMETERS", "SHARE", "BYTES", "BITS/WEIGHT", NULL};
    struct cli_table *t = cli_table_new(heads, "lrrrrr");
    struct account a;
    char was[32], becomes[32];

    account_count(&a, p);
    for (int d = 0; d < LM_N_DTYPES; d++)
        type_row(t, p, (enum lm_dtype)d, a.n_params);
    cli_table_print(t, stdout);
    printf("%s -> %s", cli_bytes(was, sizeof was, p->n_src_bytes), cli_bytes(becomes, sizeof becomes, p->n_dst_bytes));
    if (a.n_params)
        printf(", %.3f bits a weight", 8.0 * (double)a.n_bytes / (double)a.n_params);
    if (p->req.quantize)
        printf(" (%s is nominally %.2f)", p->req.ftype->name, p->req.ftype->bpw);
    printf("\n");
    print_fallbacks(p);
}

/* ---- JSON */

static json_t *str_or_null(const char *s)
{
    return s ? cli_json_str(lm_span_str(s)) : json_null();
}

static json_t *item_json(const struct lm_plan_item *it)
{
    static const char *const words[] = {"copy", "cast", "quantize", "make"};
    json_t *o = json_object(), *shape = json_array();

    for (unsigned i = 0; i < it->n_dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)it->shape[i]));
    json_object_set_new(o, "source", str_or_null(it->src ? it->src->name : NULL));
    json_object_set_new(o, "name", str_or_null(it->name));
    json_object_set_new(o, "action", json_string(words[lm_plan_action(it)]));
    json_object_set_new(o, "transform", json_string(lm_transform_name(it->transform)));
    json_object_set_new(o, "from", str_or_null(it->src ? lm_dtype_name(it->src->dtype) : NULL));
    json_object_set_new(o, "dtype", json_string(lm_dtype_name(it->dtype)));
    json_object_set_new(o, "shape", shape);
    json_object_set_new(o, "n_bytes", json_integer((json_int_t)account_bytes(it)));
    json_object_set_new(o, "n_overflow", json_integer((json_int_t)it->n_overflow));
    json_object_set_new(o, "n_flushed", json_integer((json_int_t)it->n_flushed));
    json_object_set_new(o, "n_nan", json_integer((json_int_t)it->n_nan));
    json_object_set_new(o, "why", str_or_null(it->why));
    return o;
}

static json_t *totals_json(const struct lm_plan *p)
{
    struct account a;

    account_count(&a, p);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "source", (json_int_t)a.n_source,
                     "copied", (json_int_t)a.copied, "cast", (json_int_t)a.cast, "quantized", (json_int_t)a.quantized,
                     "dropped", (json_int_t)a.dropped, "renamed", (json_int_t)a.renamed, "permuted",
                     (json_int_t)a.permuted, "transposed", (json_int_t)a.transposed, "made", (json_int_t)a.made,
                     "n_overflow", (json_int_t)a.n_overflow, "n_flushed", (json_int_t)a.n_flushed, "n_nan",
                     (json_int_t)a.n_nan);
}

json_t *account_json(const struct lm_plan *p)
{
    json_t *o = json_object(), *tensors = json_array(), *dropped = json_array(), *notes = json_array();
    struct account a;

    account_count(&a, p);
    for (size_t i = 0; i < p->n_items; i++)
        json_array_append_new(tensors, item_json(&p->items[i]));
    for (size_t i = 0; i < p->n_drops; i++)
        json_array_append_new(dropped, json_pack("{s:o, s:o}", "source", str_or_null(p->drops[i].src->name), "why",
                                                 str_or_null(p->drops[i].why)));
    for (size_t i = 0; i < p->n_notes; i++)
        json_array_append_new(notes, str_or_null(p->notes[i]));
    json_object_set_new(o, "format", json_string(p->req.to->name));
    json_object_set_new(o, "n_tensors", json_integer((json_int_t)p->n_items));
    json_object_set_new(o, "n_params", json_integer((json_int_t)a.n_params));
    json_object_set_new(o, "n_bytes_source", json_integer((json_int_t)p->n_src_bytes));
    json_object_set_new(o, "n_bytes", json_integer((json_int_t)a.n_bytes));
    json_object_set_new(o, "n_bytes_files", json_integer((json_int_t)p->n_dst_bytes));
    json_object_set_new(o, "exact", json_boolean(p->exact));
    json_object_set_new(o, "totals", totals_json(p));
    json_object_set_new(o, "tensors", tensors);
    json_object_set_new(o, "dropped", dropped);
    json_object_set_new(o, "notes", notes);
    return o;
}

/* ---- running */

int account_run_all(struct lm_plan *const *plans, const char *const *dsts, size_t n, struct account_run *r,
                    struct lm_err *e)
{
    struct cli_progress bar;
    struct lm_run_options o = {.force = r->force, .n_threads = r->n_threads, .max_ram = r->max_ram,
                               .measure = r->measure, .keep = r->keep, .part = r->part, .n_parts = r->n_parts,
                               .commit_only = r->commit_only, .quantizer = r->quantizer,
                               .quantizer_ordinal = r->quantizer_ordinal, .stop = &cli_stop,
                               .progress = cli_progress, .user = &bar};
    double began = cli_now();
    int rc;

    if (r->dry)
        return 0;
    fflush(stdout); /* what was announced stands before the work */
    cli_catch_signals();
    cli_progress_begin(&bar, r->label);
    rc = lm_plans_run(plans, dsts, n, &o, e);
    cli_progress_end(&bar);
    r->seconds = cli_now() - began;
    return rc;
}

int account_run(struct lm_plan *p, struct account_run *r, struct lm_err *e)
{
    return account_run_all(&p, &r->dst, 1, r, e);
}

static int parse_part(struct account_run *r, const char *part, struct lm_err *e)
{
    int end = 0;

    if (sscanf(part, "%u/%u%n", &r->part, &r->n_parts, &end) != 2 || part[end] || strpbrk(part, "+- \t"))
        return lm_err_set(e, LM_USAGE, "--part is I/N, for instance 1/4, not '%s'", part);
    if (r->part < 1 || r->part > r->n_parts || r->n_parts > 10000)
        return lm_err_set(e, LM_USAGE, "--part %s: parts go from 1/N to N/N, N at most 10000", part);
    return 0;
}

int account_durable(struct account_run *r, bool resume, const char *part, bool commit, struct lm_err *e)
{
    if (part && commit)
        return lm_err_set(e, LM_USAGE, "--part does a share, --commit comes after the last: give one of them");
    r->keep = resume || part || commit;
    r->commit_only = commit;
    return part ? parse_part(r, part, e) : 0;
}

static void report_json(const struct lm_plan *p, const struct account_run *r, const char *src)
{
    json_t *o = account_json(p);

    json_object_set_new(o, "source", cli_json_str(lm_span_str(src)));
    json_object_set_new(o, "destination", str_or_null(r->dst));
    if (p->req.quantize)
        json_object_set_new(o, "type", json_string(p->req.ftype->name));
    json_object_set_new(o, "seconds", json_real(r->seconds));
    json_object_set_new(o, "finished", json_boolean(!r->dry && !p->unfinished));
    json_object_set_new(o, "n_reused", json_integer((json_int_t)p->n_reused));
    cli_json_print(o);
}

void account_report(const struct lm_plan *p, const struct account_run *r, const char *src, bool full, bool json)
{
    char rate[32];

    if (json) {
        report_json(p, r, src);
        return;
    }
    if (p->unfinished) {
        printf("part %u of %u is done; when all are, --commit names the result\n", r->part, r->n_parts);
        return;
    }
    account_print(p, full);
    if (p->n_reused)
        printf("%llu of %llu ranges were there from an earlier run\n", (unsigned long long)p->n_reused,
               (unsigned long long)p->n_ranges);
    if (r->dry)
        printf("%s%snot written (dry run)\n", r->dst ? cli_safe(lm_span_str(r->dst)) : "", r->dst ? ": " : "");
    else if (r->seconds > 0)
        printf("%s: written in %.2f s, %s/s of source\n", cli_safe(lm_span_str(r->dst)), r->seconds,
               cli_bytes(rate, sizeof rate, (uint64_t)((double)p->n_src_bytes / r->seconds)));
}
