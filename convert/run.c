/* Carrying out a plan: where files go, their heads, the data, the check. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "convert/commit.h"
#include "convert/journal.h"
#include "convert/plan.h"
#include "convert/stream.h"

struct run {
    struct lm_plan *p;
    const struct lm_run_options *o;
    char *dir, *base;            /* base: of files that the plan does not name */
    struct lm_layout *layouts;   /* one a part */
    struct lmc_place *places;    /* one an item */
    int **fds;                   /* one a part: of the files of its layout; -1 for a commit record */
    struct lm_commit *commit;
    struct lmc_journal *journal; /* NULL: nothing is kept */
    bool complete;               /* an earlier run did everything but the names */
};

static char *join(const struct run *r, const char *name)
{
    char *path = NULL;
    bool here = strcmp(r->dir, ".") == 0;

    return asprintf(&path, "%s%s%s", here ? "" : r->dir, here ? "" : "/", name) < 0 ? NULL : path;
}

/* ---- layout */

int lmc_layout(struct lm_layout *out, const struct lm_plan *p, size_t part, const char *base, struct lm_err *e)
{
    const struct lm_plan_part *q = &p->parts[part];
    struct lm_write_tensor *t = calloc(q->n + 1, sizeof *t);
    struct lm_write_spec spec = {.tensors = t, .n_tensors = q->n, .meta = p->meta,
                                 .max_file_bytes = p->req.max_file_bytes, .exact_header = q->exact_header,
                                 .compress = p->req.compress};
    int rc;

    *out = (struct lm_layout){0};
    if (!t)
        return lmc_nomem(e);
    for (size_t i = 0; i < q->n; i++) {
        const struct lm_plan_item *it = &p->items[q->first + i];
        t[i] = (struct lm_write_tensor){.name = it->name, .dtype = it->dtype, .n_dims = it->n_dims};
        memcpy(t[i].shape, it->shape, sizeof t[i].shape);
    }
    rc = p->req.to->layout(out, &spec, q->base && !p->req.bare ? q->base : base, e);
    free(t);
    return rc;
}

static int make_layouts(struct run *r, struct lm_err *e)
{
    r->layouts = calloc(r->p->n_parts, sizeof *r->layouts);
    r->places = calloc(r->p->n_items + 1, sizeof *r->places);
    r->fds = calloc(r->p->n_parts, sizeof *r->fds);
    if (!r->layouts || !r->places || !r->fds)
        return lmc_nomem(e);
    for (size_t i = 0; i < r->p->n_parts; i++)
        if (lmc_layout(&r->layouts[i], r->p, i, r->base, e))
            return -1;
    return 0;
}

/* ---- where */

static bool is_folder(const char *path)
{
    struct stat s;

    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

static int choose_place(struct run *r, const char *dst, struct lm_err *e)
{
    size_t n = strlen(dst);
    const struct lm_plan *p = r->p;
    bool folder = n == 0 || dst[n - 1] == '/' || is_folder(dst) || p->n_sides > 0 || p->n_parts > 1;
    const char *base = lmc_base_name(dst);

    if (folder) {
        r->dir = strdup(n ? dst : ".");
        r->base = strdup(lmc_default_base(p));
    } else {
        r->dir = base == dst ? strdup(".") : strndup(dst, (size_t)(base - dst));
        r->base = strdup(base);
    }
    if (!r->dir || !r->base)
        return lmc_nomem(e);
    for (n = strlen(r->dir); n > 1 && r->dir[n - 1] == '/'; n--)
        r->dir[n - 1] = 0;
    if (!folder && !is_folder(r->dir))
        return lm_err_set(e, LM_MISSING, "%s: no such folder", r->dir);
    return 0;
}

static bool is_source_file(const struct lm_model *m, const struct stat *s)
{
    for (size_t i = 0; i < lm_model_n_files(m); i++)
        if (lm_model_file(m, i)->dev == (uint64_t)s->st_dev && lm_model_file(m, i)->ino == (uint64_t)s->st_ino)
            return true;
    return false;
}

/* Through links too: the same file is the same device and inode. */
static int refuse_source(const struct run *r, const char *name, struct lm_err *e)
{
    char *path = join(r, name);
    struct stat s;
    bool same;

    if (!path)
        return lmc_nomem(e);
    same = stat(path, &s) == 0 && is_source_file(r->p->src, &s);
    if (same)
        lm_err_set(e, LM_USAGE, "%s is the source itself: choose another destination", path);
    free(path);
    return same ? -1 : 0;
}

/* Small files would replace those of the source. */
static int refuse_source_folder(const struct run *r, struct lm_err *e)
{
    const char *path = lm_model_file(r->p->src, 0)->path, *base = lmc_base_name(path);
    char *dir = base == path ? strdup(".") : strndup(path, (size_t)(base - path));
    struct stat a, b;
    bool same;

    if (!dir)
        return lmc_nomem(e);
    same = stat(dir, &a) == 0 && stat(r->dir, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
    free(dir);
    if (same)
        return lm_err_set(e, LM_USAGE, "%s is the folder of the source: choose another destination", r->dir);
    return 0;
}

static int check_destination(const struct run *r, struct lm_err *e)
{
    for (size_t i = 0; i < r->p->n_parts; i++)
        for (size_t f = 0; f < r->layouts[i].n_files; f++)
            if (refuse_source(r, r->layouts[i].files[f].name, e))
                return -1;
    return r->p->n_sides > 0 && lm_model_n_files(r->p->src) > 0 ? refuse_source_folder(r, e) : 0;
}

/* ---- files */

static int add_file(struct run *r, const char *name, const uint8_t *head, size_t n_head, uint64_t n_bytes, int *fd,
                    struct lm_err *e)
{
    if (lm_commit_add(r->commit, name, n_bytes, fd, e))
        return -1;
    if (r->complete)
        return 0;
    return lm_pwrite_all(*fd, head, n_head, 0, e) ? lm_err_prefix(e, "%s", name) : 0;
}

static int add_data_file(struct run *r, const struct lm_layout_file *f, int *fd, struct lm_err *e)
{
    if (add_file(r, f->name, f->head, f->n_head, f->n_bytes, fd, e))
        return -1;
    for (size_t i = 0; !r->complete && i < f->n_chunks; i++)
        if (lm_pwrite_all(*fd, f->chunks[i].data, f->chunks[i].n, f->chunks[i].offset, e))
            return lm_err_prefix(e, "%s", f->name);
    return 0;
}

static int add_part(struct run *r, size_t part, struct lm_err *e)
{
    const struct lm_layout *l = &r->layouts[part];
    const struct lm_plan_part *q = &r->p->parts[part];
    int *fds = calloc(l->n_files + 1, sizeof *fds);
    int rc = fds ? 0 : lmc_nomem(e);

    r->fds[part] = fds;
    for (size_t f = 0; rc == 0 && f < l->n_files; f++) {
        fds[f] = -1;
        if (!l->files[f].last)
            rc = add_data_file(r, &l->files[f], &fds[f], e);
    }
    for (size_t i = 0; rc == 0 && i < q->n; i++)
        r->places[q->first + i] = (struct lmc_place){fds[l->places[i].file], l->places[i].offset};
    return rc;
}

/* The heads again, with the sums of the source, which are known now and take the same room. */
static int write_sums(struct run *r, struct lm_err *e)
{
    int rc = r->p->sums_source ? lmc_recipe_sums(r->p, e) : 0;

    for (size_t i = 0; rc == 0 && r->p->sums_source && i < r->p->n_parts; i++) {
        struct lm_layout l = {0};
        rc = lmc_layout(&l, r->p, i, r->base, e);
        for (size_t f = 0; rc == 0 && f < l.n_files; f++)
            if (r->fds[i][f] >= 0)
                rc = lm_pwrite_all(r->fds[i][f], l.files[f].head, l.files[f].n_head, 0, e);
        lm_layout_free(&l);
    }
    return rc;
}

/* What depends on the data, once they are there. */
static int finish_files(struct run *r, struct lm_err *e)
{
    const struct lm_format *to = r->p->req.to;

    if (write_sums(r, e))
        return -1;
    for (size_t i = 0; to->finish && i < r->p->n_parts; i++)
        for (size_t f = 0; f < r->layouts[i].n_files; f++)
            if (r->fds[i][f] >= 0 && to->finish(r->fds[i][f], &r->layouts[i], f, e))
                return lm_err_prefix(e, "%s", r->layouts[i].files[f].name);
    return 0;
}

/* In the order in which names will appear: data, small files, commit record. */
static int add_files(struct run *r, struct lm_err *e)
{
    int fd;

    for (size_t i = 0; i < r->p->n_parts; i++)
        if (add_part(r, i, e))
            return -1;
    for (size_t i = 0; i < r->p->n_sides; i++)
        if (add_file(r, r->p->sides[i].name, r->p->sides[i].data, r->p->sides[i].n, r->p->sides[i].n, &fd, e))
            return -1;
    for (size_t i = 0; i < r->p->n_parts; i++)
        for (size_t f = 0; f < r->layouts[i].n_files; f++) {
            const struct lm_layout_file *file = &r->layouts[i].files[f];
            if (file->last && add_file(r, file->name, file->head, file->n_head, file->n_bytes, &fd, e))
                return -1;
        }
    return 0;
}

/* ---- reading back */

/* A file that opens the whole result: the index, or the first. */
static const char *entry_file(const struct run *r)
{
    const struct lm_layout *l = &r->layouts[0];
    size_t n = r->p->n_sides;

    if (r->p->n_parts > 1 && n > 0 && lmc_has_suffix(r->p->sides[n - 1].name, ".index.json"))
        return r->p->sides[n - 1].name;
    for (size_t f = 0; f < l->n_files; f++)
        if (l->files[f].last)
            return l->files[f].name;
    return l->files[0].name;
}

static int compare(const struct lm_plan *p, const struct lm_model *m, struct lm_err *e)
{
    if (p->n_parts == 1 && lm_model_n_tensors(m) != p->n_items)
        return lm_err_set(e, LM_MISMATCH, "%zu tensors were written, %zu are found", p->n_items, lm_model_n_tensors(m));
    for (size_t i = 0; i < p->n_items; i++) {
        const struct lm_plan_item *it = &p->items[i];
        const struct lm_tensor *t = lm_model_find(m, it->name);
        if (!t && p->n_parts > 1)
            continue;
        if (!t || t->dtype != it->dtype || t->n_dims != it->n_dims ||
            memcmp(t->shape, it->shape, it->n_dims * sizeof it->shape[0]) != 0)
            return lm_err_set(e, LM_MISMATCH, "tensor '%s' is not as it was written", it->name);
    }
    return 0;
}

/* What is read has Hugging Face's form again: it is turned once more. */
static int compare_recast(const struct lm_plan *p, struct lm_model *m, struct lm_err *e)
{
    struct lm_model *again;

    if (p->req.to->recast(&again, m, p->req.dtype, e))
        return -1;
    int rc = compare(p, again, e);
    lm_model_close(again);
    return rc;
}

/* Before it has its name: what does not open, or is not what was planned, never gets one. */
static int read_back(const struct run *r, struct lm_err *e)
{
    struct lm_model *m = NULL;
    char *path = NULL;
    int rc = lmc_commit_preview(&path, r->commit, entry_file(r), e);

    if (rc == 0)
        rc = lm_model_open(&m, path, e);
    if (rc == 0 && lmc_has_packed(m)) { /* it is a model; compared is what it is stored as */
        lm_model_close(m);
        rc = lm_model_open_stored(&m, path, e);
    }
    if (rc == 0 && r->p->recast)
        rc = compare_recast(r->p, m, e);
    else if (rc == 0)
        rc = compare(r->p, m, e);
    if (rc)
        lm_err_prefix(e, "%s: what was written cannot be read back", entry_file(r));
    lm_model_close(m);
    lmc_commit_preview_end(r->commit, path);
    return rc;
}

/* ---- work that survives */

/* The output's files in the order of add_files; NULL behind the last. */
static const char *file_at(const struct run *r, size_t i, uint64_t *n_bytes)
{
    for (int last = 0; last < 2; last++) {
        for (size_t k = 0; k < r->p->n_parts; k++)
            for (size_t f = 0; f < r->layouts[k].n_files; f++)
                if (r->layouts[k].files[f].last == (last == 1) && i-- == 0) {
                    *n_bytes = r->layouts[k].files[f].n_bytes;
                    return r->layouts[k].files[f].name;
                }
        for (size_t k = 0; last == 0 && k < r->p->n_sides; k++)
            if (i-- == 0) {
                *n_bytes = r->p->sides[k].n;
                return r->p->sides[k].name;
            }
    }
    return NULL;
}

/* Killed after names were given, and then an output was removed or replaced? */
static bool is_gone(const struct run *r)
{
    const char *name;
    uint64_t n_bytes;
    struct stat s;
    bool gone = false;

    for (size_t i = 0; !gone && (name = file_at(r, i, &n_bytes)); i++) {
        char *path = lmc_journal_has_file(r->journal, i) ? NULL : join(r, name);
        gone = path && (stat(path, &s) < 0 || (uint64_t)s.st_size != n_bytes);
        free(path);
    }
    return gone;
}

static int open_journal(struct run *r, struct lm_err *e)
{
    struct lmc_identity id;

    if (!r->o->keep)
        return 0;
    if (r->p->req.compress)
        return lm_err_set(e, LM_USAGE, "--compress works on whole files at the end, and cannot be done in parts or resumed");
    if (lmc_identify(&id, r->p, r->layouts, e) ||
        lmc_journal_open(&r->journal, r->dir, entry_file(r), &id, r->o->part, r->o->n_parts, e))
        return -1;
    if (lmc_journal_is_complete(r->journal) && is_gone(r))
        lmc_journal_forget(r->journal);
    r->complete = lmc_journal_is_complete(r->journal);
    return lmc_commit_keep(r->commit, lmc_journal_folder(r->journal), r->complete, e);
}

/* From here on only names are missing, whatever happens. */
static int mark_complete(struct run *r, struct lm_err *e)
{
    if (!r->journal || r->complete)
        return 0;
    return lmc_commit_sync(r->commit, e) || lmc_journal_complete(r->journal, e) ? -1 : 0;
}

/* Is there anything to go on from? The message says where. */
static void close_journal(struct run *r, bool ok, struct lm_err *e)
{
    char *folder = r->journal ? strdup(lmc_journal_folder(r->journal)) : NULL;
    bool stays = lmc_journal_close(r->journal, ok && !r->p->unfinished);
    struct lm_err was = *e;

    if (folder && stays && !ok && was.code != LM_INTERRUPTED)
        lm_err_set(e, was.code, "%.900s; what is done is kept in %s/%s", was.text, r->dir, folder);
    if (folder && !stays && !ok && was.code == LM_INTERRUPTED)
        lm_err_set(e, was.code, "interrupted; nothing was done yet and nothing was left behind");
    free(folder);
}

/* ---- all */

static int prepare(struct run *r, const char *dst, struct lm_err *e)
{
    if (choose_place(r, dst, e) || make_layouts(r, e) || check_destination(r, e))
        return -1;
    if (lm_commit_begin(&r->commit, r->dir, r->o->force, e) || open_journal(r, e))
        return -1;
    return add_files(r, e);
}

static int name_files(struct run *r, struct lm_err *e)
{
    struct lm_commit *c = r->commit;

    if (read_back(r, e) || mark_complete(r, e))
        return -1;
    r->commit = NULL;
    return lm_commit_finish(c, e);
}

static int finish(struct run *r, struct lm_err *e)
{
    if (!r->complete && (lm_model_check_unchanged(r->p->src, e) || lmc_stopped(r->o, e)))
        return -1;
    r->p->unfinished = r->o->n_parts > 0 && !r->complete;
    if (r->p->unfinished)
        return lmc_commit_sync(r->commit, e);
    return (!r->complete && finish_files(r, e)) || name_files(r, e) ? -1 : 0;
}

static void end(struct run *r, bool ok, struct lm_err *e)
{
    close_journal(r, ok, e);
    lm_commit_abort(r->commit);
    for (size_t i = 0; r->layouts && i < r->p->n_parts; i++)
        lm_layout_free(&r->layouts[i]);
    for (size_t i = 0; r->fds && i < r->p->n_parts; i++)
        free(r->fds[i]);
    free(r->fds);
    free(r->layouts);
    free(r->places);
    free(r->dir);
    free(r->base);
}

/* The data of all outputs that do not have them. */
static int stream(struct run *runs, size_t n, const struct lm_run_options *o, struct lm_err *e)
{
    struct lmc_output *outs = calloc(n, sizeof *outs);
    size_t k = 0;

    if (!outs)
        return lmc_nomem(e);
    for (size_t i = 0; i < n; i++)
        if (!runs[i].complete)
            outs[k++] = (struct lmc_output){.p = runs[i].p, .places = runs[i].places, .journal = runs[i].journal};
    int rc = k > 0 ? lmc_stream(outs, k, o, e) : 0;
    free(outs);
    return rc;
}

static bool same_work(const struct lm_plan *a, const struct lm_plan *b)
{
    if (a->src != b->src || a->n_items != b->n_items || a->req.allow_nan != b->req.allow_nan)
        return false;
    for (size_t i = 0; i < a->n_items; i++) {
        const struct lm_plan_item *x = &a->items[i], *y = &b->items[i];
        if (x->src != y->src || x->transform != y->transform || x->inverse != y->inverse || x->n_heads != y->n_heads ||
            x->n_pieces != y->n_pieces || x->n_dims != y->n_dims || strcmp(x->name, y->name) != 0 ||
            memcmp(x->shape, y->shape, x->n_dims * sizeof x->shape[0]) != 0)
            return false;
    }
    return true;
}

static int check_plans(struct lm_plan *const *plans, size_t n, struct lm_err *e)
{
    for (size_t i = 1; i < n; i++)
        if (!same_work(plans[0], plans[i]))
            return lm_err_set(e, LM_USAGE, "these outputs are not made of the same tensors in the same order: make them one "
                              "after the other");
    return 0;
}

int lm_plans_run(struct lm_plan *const *plans, const char *const *dsts, size_t n, const struct lm_run_options *o,
                 struct lm_err *e)
{
    struct run *runs = calloc(n, sizeof *runs);
    int rc = runs ? check_plans(plans, n, e) : lmc_nomem(e);

    for (size_t i = 0; runs && i < n; i++)
        runs[i] = (struct run){.p = plans[i], .o = o};
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = prepare(&runs[i], dsts[i], e);
    if (rc == 0)
        rc = stream(runs, n, o, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = finish(&runs[i], e);
    for (size_t i = 0; runs && i < n; i++)
        end(&runs[i], rc == 0, e);
    free(runs);
    return rc;
}

int lm_plan_run(struct lm_plan *p, const char *dst, const struct lm_run_options *o, struct lm_err *e)
{
    return lm_plans_run(&p, &dst, 1, o, e);
}
