#include "convert/edit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/commit.h"
#include "convert/edit_parts.h"
#include "convert/stream.h"

enum { BOUNCE = 1 << 16 };

void lmc_image_free(struct lmc_image *x)
{
    free(x->head);
    free(x->runs);
    x->head = NULL;
    x->runs = NULL;
}

bool lmc_image_stays(const struct lmc_image *x, const struct lm_model_file *f)
{
    for (size_t i = 0; i < x->n_runs; i++)
        if (x->runs[i].from != x->runs[i].to)
            return false;
    return x->n_head <= f->map.size && (x->n_runs == 0 ? x->n_bytes <= f->map.size : x->n_head <= x->runs[0].from);
}

/* ---- safetensors */

static int image_safetensors(struct lmc_image *x, const struct lm_model *m, size_t file, const struct lm_edit *edits, size_t n,
                             bool copy, struct lm_err *e)
{
    const struct lm_model_file *f = lm_model_file(m, file);
    uint64_t n_old = lm_load_u64le(f->map.data), n_new;
    char *text = NULL;

    if (lmc_edit_header(&text, lm_span_of(f->map.data + 8, (size_t)n_old), edits, n, e))
        return -1;
    size_t k = strlen(text);
    n_new = !copy && k <= n_old ? n_old : (k + 7) / 8 * 8 + LMC_PADDING / 4;
    *x = (struct lmc_image){.file = file};
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
    x->runs[0] = (struct lmc_run){8 + n_old, 8 + n_new, f->map.size - 8 - n_old};
    x->n_runs = 1;
    x->n_bytes = 8 + n_new + x->runs[0].n;
    return 0;
}

/* ---- writing */

static int copy_run(int from, int to, struct lmc_run r, struct lm_err *e)
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

static int fill_copy(const struct lmc_image *x, const struct lm_model *m, int fd, struct lm_err *e)
{
    if (lm_pwrite_all(fd, x->head, x->n_head, 0, e))
        return -1;
    for (size_t i = 0; i < x->n_runs; i++)
        if (copy_run(lm_model_file(m, x->file)->fd, fd, x->runs[i], e))
            return -1;
    return lm_model_check_unchanged(m, e);
}

static int check_tensors(const char *path, const struct lm_model *m, struct lm_err *e)
{
    struct lm_model *again;

    if (lm_model_open_stored(&again, path, e))
        return -1;
    int rc = lm_model_n_tensors(again) == lm_model_n_tensors(m) ? 0 : lm_err_set(e, LM_MISMATCH, "tensors were lost");
    lm_model_close(again);
    return rc;
}

/* A file that is a model of its own is read before it has its name; one of a set cannot be without the others. */
static int check_before(const struct lm_commit *c, const struct lm_model *m, const char *name, struct lm_err *e)
{
    char *path;

    if (lm_model_n_files(m) > 1)
        return 0;
    int rc = lmc_commit_preview(&path, c, name, e);
    if (rc == 0 && check_tensors(path, m, e))
        rc = lm_err_prefix(e, "%s: what was written cannot be read back", name);
    lmc_commit_preview_end(c, path);
    return rc;
}

/* What several files become together: an index comes last. */
struct copies { const struct lmc_image *images; size_t n; const char *index, *text; /* NULL: none */ };

static int add_copies(struct lm_commit *c, const struct copies *x, const struct lm_model *m, const char *only, struct lm_err *e)
{
    int fd;

    for (size_t i = 0; i < x->n; i++) {
        const char *name = only ? only : lmc_base_name(lm_model_file(m, x->images[i].file)->path);
        if (lm_commit_add(c, name, x->images[i].n_bytes, &fd, e) || fill_copy(&x->images[i], m, fd, e))
            return -1;
    }
    if (!x->text)
        return check_before(c, m, only ? only : lmc_base_name(lm_model_file(m, x->images[0].file)->path), e);
    return lm_commit_add(c, lmc_base_name(x->index), strlen(x->text), &fd, e) ||
           lm_pwrite_all(fd, x->text, strlen(x->text), 0, e) ? -1 : 0;
}

/* path: of the first file; only: the name of a single one. */
static int write_copies(const struct copies *x, const struct lm_model *m, const char *path, const char *only, bool force,
                        struct lm_err *e)
{
    const char *base = lmc_base_name(path);
    char *dir = base == path ? strdup(".") : strndup(path, (size_t)(base - path));
    struct lm_commit *c = NULL;
    int rc = -1;

    if (!dir)
        return lmc_nomem(e);
    if (lm_commit_begin(&c, dir, force, e) == 0)
        rc = add_copies(c, x, m, only, e);
    if (rc == 0)
        rc = lm_commit_finish(c, e);
    else
        lm_commit_abort(c);
    free(dir);
    return rc;
}

/* What was written opens, with as many tensors; else the old head comes back. */
static int write_in_place(const struct lmc_image *x, const struct lm_model *m, struct lm_err *e)
{
    const char *path = lm_model_file(m, x->file)->path;
    struct lm_err ignored;
    uint8_t *old = malloc(x->n_head + 1);

    if (!old)
        return lmc_nomem(e);
    int rc = lmc_pread_all(lm_model_file(m, x->file)->fd, old, x->n_head, 0, e);
    if (rc == 0)
        rc = lm_model_check_unchanged(m, e);
    if (rc == 0)
        rc = lmc_place_head(path, x->head, x->n_head, e);
    if (rc == 0 && (rc = check_tensors(lm_model_path(m), m, e))) {
        lm_err_prefix(e, "%s", path);
        lmc_place_head(path, old, x->n_head, &ignored);
    }
    free(old);
    return rc;
}

/* ---- what is asked of which file */

static int refuse(const struct lm_model *m, const struct lm_edit_options *o, struct lm_err *e)
{
    const char *name = lm_model_format(m)->name;
    struct stat s;

    if (strcmp(name, "gguf") != 0 && strcmp(name, "safetensors") != 0)
        return lm_err_set(e, LM_UNSUPPORTED, "%s: only GGUF and safetensors files can be edited; convert it first",
                          lm_model_path(m));
    if (o->out && lm_model_n_files(m) != 1)
        return lm_err_set(e, LM_UNSUPPORTED, "%s: %zu files belong together and are edited where they lie: leave out "
                          "--output, or make one file with lm-convert --merge", lm_model_path(m), lm_model_n_files(m));
    for (size_t i = 0; i < lm_model_n_tensors(m); i++)
        if (lm_model_tensor(m, i)->big_endian)
            return lm_err_set(e, LM_UNSUPPORTED, "%s: a big-endian file; lm-convert makes a usual one of it, which can be "
                              "edited", lm_model_path(m));
    if (o->out && stat(o->out, &s) == 0 && (uint64_t)s.st_dev == lm_model_file(m, 0)->dev &&
        (uint64_t)s.st_ino == lm_model_file(m, 0)->ino)
        return lm_err_set(e, LM_USAGE, "%s is the source itself: without --output it is edited", o->out);
    return 0;
}

/* A tensor's new name goes to its file, all else to the first. */
static size_t file_of(const struct lm_model *m, const struct lm_edit *x)
{
    const struct lm_tensor *t = x->what == LM_EDIT_RENAME ? lm_model_find(m, x->key) : NULL;

    return t ? t->file : 0;
}

static bool is_touched(const struct lm_model *m, size_t file, const struct lm_edit *edits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (file_of(m, &edits[i]) == file)
            return true;
    return file == 0 && n == 0;
}

/* The edits of one file of safetensors. */
static int part_of_safetensors(struct lmc_image *x, const struct lm_model *m, size_t file, const struct lm_edit *edits, size_t n,
                               bool copy, struct lm_err *e)
{
    struct lm_edit *mine = calloc(n + 1, sizeof *mine);
    size_t k = 0;
    int rc = mine ? 0 : lmc_nomem(e);

    for (size_t i = 0; rc == 0 && i < n; i++) {
        const struct lm_tensor *there = edits[i].what == LM_EDIT_RENAME ? lm_model_find(m, edits[i].to) : NULL;
        if (file_of(m, &edits[i]) != file)
            continue;
        if (there && there->file != file && lm_model_find(m, edits[i].key))
            rc = lm_err_set(e, LM_USAGE, "'%s' cannot be renamed '%s': that exists already", edits[i].key, edits[i].to);
        mine[k++] = edits[i];
    }
    if (rc == 0)
        rc = image_safetensors(x, m, file, mine, k, copy, e);
    free(mine);
    return rc;
}

/* Images of the files that change. */
static int make_images(struct lmc_image *images, size_t *n_images, const struct lm_model *m, const struct lm_edit *edits,
                       size_t n, bool copy, struct lm_err *e)
{
    const char **names = calloc(lm_model_n_tensors(m) + 1, sizeof *names);
    struct lm_meta *meta = NULL;
    bool gguf = lmc_is_gguf(m);
    int rc = names ? 0 : lmc_nomem(e);

    if (rc == 0 && gguf)
        rc = lmc_edit_meta(&meta, names, m, edits, n, e);
    for (size_t f = 0; rc == 0 && f < lm_model_n_files(m); f++) {
        struct lmc_image *x = &images[*n_images];
        if (!is_touched(m, f, edits, n))
            continue;
        rc = gguf ? lmc_image_gguf(x, m, f, meta, names, copy, e) : part_of_safetensors(x, m, f, edits, n, copy, e);
        ++*n_images;
    }
    lm_meta_free(meta);
    free(names);
    return rc;
}

static int write_images(struct lm_edit_result *r, const struct copies *x, const struct lm_model *m,
                        const struct lm_edit_options *o, struct lm_err *e)
{
    const char *first = lm_model_file(m, x->images[0].file)->path;

    if (r->in_place)
        return write_in_place(&x->images[0], m, e);
    if (write_copies(x, m, o->out ? o->out : first, o->out ? lmc_base_name(o->out) : NULL, !o->out || o->force, e))
        return -1;
    return lm_model_n_files(m) > 1 && check_tensors(lm_model_path(m), m, e) ? lm_err_prefix(e, "%s", first) : 0;
}

static int edit_files(struct lm_edit_result *r, const struct lm_model *m, const struct lm_edit *edits, size_t n,
                      const struct lm_edit_options *o, struct lm_err *e)
{
    struct lmc_image *images = calloc(lm_model_n_files(m), sizeof *images);
    struct copies x = {.images = images};
    char *index = NULL, *text = NULL;
    int rc = images ? make_images(images, &x.n, m, edits, n, o->out, e) : lmc_nomem(e);

    if (rc == 0 && !lmc_is_gguf(m) && lm_model_n_files(m) > 1)
        rc = lmc_edit_index(&index, &text, m, edits, n, e);
    x.index = index;
    x.text = text;
    r->in_place = rc == 0 && !o->out && x.n == 1 && !text && lmc_image_stays(&images[0], lm_model_file(m, images[0].file));
    for (size_t f = 0; rc == 0 && f < x.n; f++) {
        r->n_head += images[f].n_head;
        for (size_t i = 0; !r->in_place && i < images[f].n_runs; i++)
            r->n_copied += images[f].runs[i].n;
    }
    if (rc == 0 && !o->dry && n + (o->out != NULL) > 0)
        rc = write_images(r, &x, m, o, e);
    for (size_t f = 0; images && f < x.n; f++)
        lmc_image_free(&images[f]);
    free(images);
    free(index);
    free(text);
    return rc;
}

/* ---- all */

/* The template of a model whose tensors have none beside them: edits without it. */
static int take_template(struct lm_edit_result *r, const struct lm_model *m, struct lm_edit *edits, size_t *n,
                         const struct lm_edit_options *o, struct lm_err *e)
{
    size_t kept = 0;

    for (size_t i = 0; i < *n; i++) {
        char *where;
        if (lmc_is_gguf(m) || edits[i].what != LM_EDIT_SET || strcmp(edits[i].key, "tokenizer.chat_template") != 0) {
            edits[kept++] = edits[i];
            continue;
        }
        if (o->out)
            return lm_err_set(e, LM_USAGE, "the chat template of safetensors lies beside them: leave out --output");
        if (lmc_edit_template(&where, m, edits[i].text, o->dry, e))
            return -1;
        snprintf(r->beside, sizeof r->beside, "%s", where);
        free(where);
    }
    *n = kept;
    return 0;
}

static int edit_open(struct lm_edit_result *r, const struct lm_model *m, const struct lm_edit *edits, size_t n,
                     const struct lm_edit_options *o, struct lm_err *e)
{
    struct lm_edit *rest = calloc(n + 1, sizeof *rest);
    size_t k = n;

    if (!rest)
        return lmc_nomem(e);
    if (n)
        memcpy(rest, edits, n * sizeof *rest);
    int rc = refuse(m, o, e) || take_template(r, m, rest, &k, o, e) ? -1 : 0;
    if (rc == 0 && (k > 0 || n == 0))
        rc = edit_files(r, m, rest, k, o, e);
    free(rest);
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
        rc = edit_open(r, m, edits, n, o, e);
    lm_model_close(m);
    free(real);
    return rc;
}
