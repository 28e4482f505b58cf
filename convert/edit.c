#include "convert/edit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/plan.h"
#include "convert/stream.h"

/* A copy leaves this much room in its head, so that the next edits need none. */
enum { SLACK = 4096, BOUNCE = 1 << 16 };
static const char padding_key[] = "libmodel.padding";

/* The new file: a head, and runs of the old file's bytes behind it. */
struct image {
    uint8_t *head;
    size_t n_head, n_text; /* n_text: without the zeros up to the data */
    struct run { uint64_t from, to, n; } *runs;
    size_t n_runs;
    uint64_t n_bytes;
};

static void image_free(struct image *x)
{
    free(x->head);
    free(x->runs);
}

/* Do all bytes behind the head stay where they are? */
static bool stays(const struct image *x, const struct lm_model_file *f)
{
    for (size_t i = 0; i < x->n_runs; i++)
        if (x->runs[i].from != x->runs[i].to)
            return false;
    return x->n_head <= f->map.size && (x->n_runs == 0 ? x->n_bytes <= f->map.size : x->n_head <= x->runs[0].from);
}

/* ---- GGUF */

static int gguf_layout(struct lm_layout *l, const struct lm_model *m, const struct lm_meta *meta, const char *const *names,
                       struct lm_err *e)
{
    size_t n = lm_model_n_tensors(m);
    struct lm_write_tensor *w = calloc(n + 1, sizeof *w);
    struct lm_write_spec spec = {.tensors = w, .n_tensors = n, .meta = meta};

    if (!w)
        return lmc_nomem(e);
    for (size_t i = 0; i < n; i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        w[i] = (struct lm_write_tensor){.name = names[i], .dtype = t->dtype, .n_dims = t->n_dims};
        memcpy(w[i].shape, t->shape, sizeof w[i].shape);
    }
    int rc = lm_format_find("gguf")->layout(l, &spec, "model.gguf", e);
    free(w);
    return rc;
}

static int gguf_image(struct image *x, const struct lm_model *m, const struct lm_meta *meta, const char *const *names,
                      struct lm_err *e)
{
    struct lm_layout l;

    if (gguf_layout(&l, m, meta, names, e))
        return -1;
    *x = (struct image){.head = l.files[0].head, .n_head = l.files[0].n_head, .n_bytes = l.files[0].n_bytes,
                        .n_runs = lm_model_n_tensors(m)};
    l.files[0].head = NULL;
    x->n_text = x->n_head;
    if (x->n_runs > 0) { /* zeros up to the data: they replace what an older head left there */
        uint8_t *whole = realloc(x->head, l.places[0].offset);
        if (!whole) {
            lm_layout_free(&l);
            return lmc_nomem(e);
        }
        memset(whole + x->n_head, 0, l.places[0].offset - x->n_head);
        x->head = whole;
        x->n_head = l.places[0].offset;
    }
    x->runs = calloc(x->n_runs + 1, sizeof *x->runs);
    for (size_t i = 0; x->runs && i < x->n_runs; i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        x->runs[i] = (struct run){t->offset, l.places[i].offset, t->n_bytes};
    }
    lm_layout_free(&l);
    return x->runs ? 0 : lmc_nomem(e);
}

/* Where the data begin. */
static uint64_t data_start(const struct lm_model *m)
{
    return lm_model_n_tensors(m) ? lm_model_tensor(m, 0)->offset : lm_model_file(m, 0)->map.size;
}

/* A text of spaces as the last pair, which takes n bytes with its key. */
static int set_padding(struct lm_meta *meta, uint64_t n, struct lm_err *e)
{
    const uint64_t key = 8 + sizeof padding_key - 1 + 4 + 8;
    char *spaces = n >= key ? malloc(n - key + 1) : NULL;

    if (!spaces)
        return n >= key ? lmc_nomem(e) : 0;
    memset(spaces, ' ', n - key);
    int rc = lm_meta_set_str(meta, padding_key, lm_span_of(spaces, n - key)) < 0 ? lmc_nomem(e) : 0;
    free(spaces);
    return rc;
}

static int plan_gguf(struct image *x, const struct lm_model *m, const struct lm_edit *edits, size_t n, bool copy,
                     struct lm_err *e)
{
    const char **names = calloc(lm_model_n_tensors(m) + 1, sizeof *names);
    struct lm_meta *meta = NULL;
    int rc = names ? lmc_edit_meta(&meta, names, m, edits, n, e) : lmc_nomem(e);

    if (rc == 0)
        lm_meta_remove(meta, padding_key);
    if (rc == 0)
        rc = gguf_image(x, m, meta, names, e);
    if (rc == 0 && (copy || !stays(x, lm_model_file(m, 0)))) {
        uint64_t start = data_start(m), room = start > x->n_text && !copy ? start - x->n_text : SLACK;
        image_free(x);
        *x = (struct image){0};
        rc = set_padding(meta, room, e) ? -1 : gguf_image(x, m, meta, names, e);
        if (rc == 0 && !copy && !stays(x, lm_model_file(m, 0)) && room != SLACK) {
            image_free(x);
            *x = (struct image){0};
            rc = set_padding(meta, SLACK, e) ? -1 : gguf_image(x, m, meta, names, e);
        }
    }
    lm_meta_free(meta);
    free(names);
    return rc;
}

/* ---- safetensors */

static int plan_safetensors(struct image *x, const struct lm_model_file *f, const struct lm_edit *edits, size_t n, bool copy,
                            struct lm_err *e)
{
    uint64_t n_old = lm_load_u64le(f->map.data), n_new;
    char *text = NULL;

    if (lmc_edit_header(&text, lm_span_of(f->map.data + 8, (size_t)n_old), edits, n, e))
        return -1;
    size_t k = strlen(text);
    n_new = !copy && k <= n_old ? n_old : (k + 7) / 8 * 8 + (copy ? 0 : SLACK / 4);
    x->head = malloc(8 + n_new);
    x->runs = calloc(1, sizeof *x->runs);
    if (!x->head || !x->runs) {
        free(text);
        return lmc_nomem(e);
    }
    lm_store_u64le(x->head, n_new);
    memset(x->head + 8, ' ', n_new);
    memcpy(x->head + 8, text, k);
    free(text);
    x->n_head = 8 + n_new;
    x->runs[0] = (struct run){8 + n_old, 8 + n_new, f->map.size - 8 - n_old};
    x->n_runs = 1;
    x->n_bytes = 8 + n_new + x->runs[0].n;
    return 0;
}

/* ---- writing */

static int copy_run(int from, int to, struct run r, struct lm_err *e)
{
    uint8_t buf[BOUNCE];

    while (r.n > 0) {
        off_t a = (off_t)r.from, b = (off_t)r.to;
        ssize_t k = copy_file_range(from, &a, to, &b, (size_t)r.n, 0);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && (errno == ENOSPC || errno == EIO || errno == EDQUOT))
            return lm_err_errno(e, "cannot copy");
        if (k <= 0) { /* this pair of files cannot */
            k = r.n < BOUNCE ? (ssize_t)r.n : BOUNCE;
            if (lmc_pread_all(from, buf, (size_t)k, r.from, e) || lm_pwrite_all(to, buf, (size_t)k, r.to, e))
                return -1;
        }
        r.from += (uint64_t)k;
        r.to += (uint64_t)k;
        r.n -= (uint64_t)k;
    }
    return 0;
}

static int fill_copy(const struct image *x, const struct lm_model *m, int fd, struct lm_err *e)
{
    if (lm_pwrite_all(fd, x->head, x->n_head, 0, e))
        return -1;
    for (size_t i = 0; i < x->n_runs; i++)
        if (copy_run(lm_model_file(m, 0)->fd, fd, x->runs[i], e))
            return -1;
    return lm_model_check_unchanged(m, e);
}

static int write_copy(const struct image *x, const struct lm_model *m, const char *path, bool force, struct lm_err *e)
{
    const char *base = lmc_base_name(path);
    char *dir = base == path ? strdup(".") : strndup(path, (size_t)(base - path));
    struct lm_commit *c = NULL;
    int fd, rc = -1;

    if (!dir)
        return lmc_nomem(e);
    if (lm_commit_begin(&c, dir, force, e) == 0 && lm_commit_add(c, base, x->n_bytes, &fd, e) == 0)
        rc = fill_copy(x, m, fd, e);
    if (rc == 0)
        rc = lm_commit_finish(c, e);
    else
        lm_commit_abort(c);
    free(dir);
    return rc;
}

/* What was written opens, with as many tensors; else the old head comes back. */
static int check_result(const char *path, const struct lm_model *m, struct lm_err *e)
{
    struct lm_model *again;

    if (lm_model_open_stored(&again, path, e))
        return -1;
    int rc = lm_model_n_tensors(again) == lm_model_n_tensors(m)
                 ? 0 : lm_err_set(e, LM_MISMATCH, "%s: tensors were lost", path);
    lm_model_close(again);
    return rc;
}

static int write_in_place(const struct image *x, const struct lm_model *m, const char *path, struct lm_err *e)
{
    struct lm_err ignored;
    uint8_t *old = malloc(x->n_head + 1);

    if (!old)
        return lmc_nomem(e);
    int rc = lmc_pread_all(lm_model_file(m, 0)->fd, old, x->n_head, 0, e);
    if (rc == 0)
        rc = lm_model_check_unchanged(m, e);
    if (rc == 0)
        rc = lmc_place_head(path, x->head, x->n_head, e);
    if (rc == 0 && (rc = check_result(path, m, e)))
        lmc_place_head(path, old, x->n_head, &ignored);
    free(old);
    return rc;
}

/* ---- all */

static int refuse_sets(const struct lm_model *m, struct lm_err *e)
{
    const char *name = lm_model_format(m)->name;

    if (strcmp(name, "gguf") != 0 && strcmp(name, "safetensors") != 0)
        return lm_err_set(e, LM_UNSUPPORTED, "%s: only GGUF and safetensors files can be edited; convert it first",
                          lm_model_path(m));
    if (lm_model_n_files(m) != 1)
        return lm_err_set(e, LM_UNSUPPORTED, "%s: %zu files belong together; lm-convert makes one of them, which can be edited",
                          lm_model_path(m), lm_model_n_files(m));
    for (size_t i = 0; i < lm_model_n_tensors(m); i++)
        if (lm_model_tensor(m, i)->big_endian)
            return lm_err_set(e, LM_UNSUPPORTED, "%s: a big-endian file; lm-convert makes a usual one of it, which can be "
                              "edited", lm_model_path(m));
    return 0;
}

static int refuse_same(const struct lm_model *m, const char *out, struct lm_err *e)
{
    struct stat s;

    if (stat(out, &s) == 0 && (uint64_t)s.st_dev == lm_model_file(m, 0)->dev && (uint64_t)s.st_ino == lm_model_file(m, 0)->ino)
        return lm_err_set(e, LM_USAGE, "%s is the source itself: without --output it is edited", out);
    return 0;
}

static int edit_open(struct lm_edit_result *r, const struct lm_model *m, const char *path, const struct lm_edit *edits,
                     size_t n, const struct lm_edit_options *o, struct lm_err *e)
{
    const struct lm_model_file *f = lm_model_file(m, 0);
    struct image x = {0};
    bool gguf = lmc_is_gguf(m);
    int rc = gguf ? plan_gguf(&x, m, edits, n, o->out, e) : plan_safetensors(&x, f, edits, n, o->out, e);

    if (rc == 0) {
        r->in_place = !o->out && stays(&x, f);
        r->n_head = x.n_head;
        for (size_t i = 0; !r->in_place && i < x.n_runs; i++)
            r->n_copied += x.runs[i].n;
    }
    if (rc == 0 && !o->dry && n + (o->out != NULL) > 0) {
        const char *to = o->out ? o->out : path;
        rc = r->in_place ? write_in_place(&x, m, path, e) : write_copy(&x, m, to, !o->out || o->force, e);
        if (rc == 0 && !r->in_place)
            rc = check_result(to, m, e);
    }
    image_free(&x);
    return rc;
}

int lm_edit(struct lm_edit_result *r, const char *path, const struct lm_edit *edits, size_t n,
            const struct lm_edit_options *o, struct lm_err *e)
{
    struct lm_model *m = NULL;
    struct stat s;
    char *real = lstat(path, &s) == 0 && !S_ISLNK(s.st_mode) ? strdup(path) : realpath(path, NULL); /* a link stays a link */
    int rc;

    *r = (struct lm_edit_result){0};
    if (!real)
        return lm_err_errno(e, "%s: cannot be opened", path);
    rc = lmc_place_recover(real, e);
    if (rc == 0)
        rc = lm_model_open_stored(&m, real, e);
    if (rc == 0)
        rc = refuse_sets(m, e) || (o->out && refuse_same(m, o->out, e)) ? -1 : 0;
    if (rc == 0)
        rc = edit_open(r, m, lm_model_file(m, 0)->path, edits, n, o, e);
    lm_model_close(m);
    free(real);
    return rc;
}
