#include "libmodel/model.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libmodel/fmt/views.h"
#include "libmodel/packed/packed.h"

int lmi_nomem(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory");
}

/* ---- names of files */

const char *lmi_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

char *lmi_beside(struct lm_arena *a, const char *path, const char *name)
{
    size_t n_dir = (size_t)(lmi_base_name(path) - path), n_name = strlen(name);
    char *out = lm_arena_alloc(a, n_dir + n_name + 1);

    if (out) {
        memcpy(out, path, n_dir);
        memcpy(out + n_dir, name, n_name);
    }
    return out;
}

bool lmi_has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), n_suffix = strlen(suffix);
    return n >= n_suffix && memcmp(s + n - n_suffix, suffix, n_suffix) == 0;
}

/* ---- files */

static uint64_t nanoseconds(struct timespec t)
{
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int map_open_file(struct lm_model_file *f, struct lm_err *e)
{
    struct stat s;

    if (fstat(f->fd, &s) < 0)
        return lm_err_errno(e, "%s: cannot examine", f->path);
    if (!S_ISREG(s.st_mode))
        return lm_err_set(e, LM_USAGE, "%s: not a regular file; only files and folders can be opened as a model",
                          f->path);
    f->dev = (uint64_t)s.st_dev;
    f->ino = (uint64_t)s.st_ino;
    f->mtime_ns = nanoseconds(s.st_mtim);
    f->ctime_ns = nanoseconds(s.st_ctim);
    f->map = lm_span_str("");
    if (s.st_size == 0)
        return 0;
    if ((uint64_t)s.st_size > SIZE_MAX)
        return lm_err_set(e, LM_LIMIT, "%s: too large to map on this machine", f->path);
    void *p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, f->fd, 0);
    if (p == MAP_FAILED)
        return lm_err_errno(e, "%s: cannot map", f->path);
    f->map = lm_span_of(p, (size_t)s.st_size);
    return 0;
}

int lmi_file_open(struct lm_model_file *f, const char *path, struct lm_err *e)
{
    *f = (struct lm_model_file){.path = path};
    /* O_NONBLOCK: a FIFO must be refused, not waited for. */
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0 && errno == ENOENT)
        return lm_err_set(e, LM_MISSING, "%s: no such file", path);
    if (f->fd < 0)
        return lm_err_errno(e, "%s: cannot open", path);
    if (map_open_file(f, e) < 0) {
        close(f->fd);
        return -1;
    }
    return 0;
}

void lmi_file_close(struct lm_model_file *f)
{
    if (f->map.size)
        munmap((void *)(uintptr_t)f->map.data, f->map.size);
    close(f->fd);
}

int lmi_model_adopt_file(struct lm_model *m, struct lm_model_file *f, struct lm_err *e)
{
    if (m->n_files == m->files_capacity) {
        size_t capacity = m->files_capacity ? m->files_capacity * 2 : 4;
        struct lm_model_file *bigger = reallocarray(m->files, capacity, sizeof *bigger);
        if (!bigger) {
            lmi_file_close(f);
            return lmi_nomem(e);
        }
        m->files = bigger;
        m->files_capacity = capacity;
    }
    m->files[m->n_files++] = *f;
    return 0;
}

int lm_model_add_file(struct lm_model *m, const char *path, size_t *index, struct lm_err *e)
{
    struct lm_model_file f;
    char *own = lm_arena_str(&m->arena, lm_span_str(path));

    if (!own)
        return lmi_nomem(e);
    *index = m->n_files;
    return lmi_file_open(&f, own, e) < 0 ? -1 : lmi_model_adopt_file(m, &f, e);
}

static int check_file(const struct lm_model_file *f, struct lm_err *e)
{
    struct stat now, there;

    if (fstat(f->fd, &now) < 0)
        return lm_err_errno(e, "%s: cannot examine", f->path);
    if ((uint64_t)now.st_size != f->map.size)
        return lm_err_set(e, LM_IO, "%s: the file had %zu bytes when it was opened and has %lld now: it was changed "
                          "meanwhile; nothing read from it can be trusted, try again", f->path, f->map.size,
                          (long long)now.st_size);
    if (nanoseconds(now.st_mtim) != f->mtime_ns || nanoseconds(now.st_ctim) != f->ctime_ns)
        return lm_err_set(e, LM_IO, "%s: the file was modified after it was opened; nothing read from it can be "
                          "trusted, try again", f->path);
    if (stat(f->path, &there) < 0)
        return lm_err_errno(e, "%s: was removed after it was opened", f->path);
    if ((uint64_t)there.st_dev != f->dev || (uint64_t)there.st_ino != f->ino)
        return lm_err_set(e, LM_IO, "%s: was replaced by another file after it was opened; try again", f->path);
    return 0;
}

int lm_model_check_unchanged(const struct lm_model *m, struct lm_err *e)
{
    for (size_t i = 0; i < m->n_files; i++)
        if (!m->files[i].made && check_file(&m->files[i], e) < 0)
            return -1;
    return 0;
}

/* ---- opening and closing */

struct lm_model *lmi_model_new(const char *path)
{
    struct lm_model *m = calloc(1, sizeof *m);

    if (!m)
        return NULL;
    m->path = lm_arena_str(&m->arena, lm_span_str(path));
    m->sidecar_dir = lmi_beside(&m->arena, path, "");
    m->meta = lm_meta_new();
    m->by_name = lm_map_new(0);
    if (m->path && m->sidecar_dir && m->meta && m->by_name)
        return m;
    lm_model_close(m);
    return NULL;
}

/* What was found in a file that changed meanwhile is not what was wrong with it. */
static void blame_changes(const struct lm_model *m, struct lm_err *e)
{
    struct lm_err why = {0};

    if (e && lm_model_check_unchanged(m, &why) < 0)
        *e = why;
}

int lm_model_open_stored(struct lm_model **out, const char *path, struct lm_err *e)
{
    struct stat s;

    *out = NULL;
    struct lm_model *m = lmi_model_new(path);
    if (!m)
        return lmi_nomem(e);
    bool is_dir = stat(path, &s) == 0 && S_ISDIR(s.st_mode);
    int rc = is_dir ? lmi_model_read_dir(m, path, e) : lmi_model_read_file(m, path, e);
    if (rc < 0) {
        blame_changes(m, e);
        lm_model_close(m);
        return -1;
    }
    *out = m;
    return 0;
}

static int fail_open(struct lm_model **out)
{
    lm_model_close(*out);
    *out = NULL;
    return -1;
}

int lm_model_open_headers(struct lm_model **out, const char *path, struct lm_err *e)
{
    if (lm_model_open_stored(out, path, e) < 0)
        return -1;
    return lmi_packed_find(*out, false, e) < 0 ? fail_open(out) : 0;
}

/* What is in temporary files is computed first: it may say how weights are packed. */
static int make_ready(struct lm_model *m, const char *path, struct lm_err *e)
{
    if (!m->refused && (lmi_views_fill(m, e) < 0 || lmi_packed_find(m, true, e) < 0))
        return -1;
    if (m->refused)
        return lm_err_set(e, LM_UNSUPPORTED, "%s: %s", path, m->refused);
    return lmi_packed_ready(m, e) < 0 ? lm_err_prefix(e, "%s", path) : 0;
}

int lm_model_open(struct lm_model **out, const char *path, struct lm_err *e)
{
    if (lm_model_open_stored(out, path, e) < 0)
        return -1;
    return make_ready(*out, path, e) < 0 ? fail_open(out) : 0;
}

int lmi_model_read_file(struct lm_model *m, const char *path, struct lm_err *e)
{
    struct lm_model_file f;

    if (lmi_file_open(&f, path, e) < 0)
        return -1;
    m->format = lm_format_probe(f.map, path, e);
    lmi_file_close(&f);
    if (!m->format)
        return lm_err_prefix(e, "%s", path);
    return m->format->read(m, path, e);
}

void lm_model_close(struct lm_model *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n_files; i++)
        lmi_file_close(&m->files[i]);
    lmi_sidecars_free(m);
    lm_meta_free(m->meta);
    lm_map_free(m->by_name);
    free(m->left_out);
    free(m->files);
    free(m->stored);
    free(m->tensors);
    lm_arena_free(&m->arena);
    free(m);
}

/* ---- getters */

const char *lm_model_path(const struct lm_model *m)
{
    return m->path;
}

const struct lm_format *lm_model_format(const struct lm_model *m)
{
    return m->format;
}

size_t lm_model_n_tensors(const struct lm_model *m)
{
    return m->n_tensors;
}

const struct lm_tensor *lm_model_tensor(const struct lm_model *m, size_t i)
{
    return &m->tensors[i];
}

size_t lm_model_n_stored(const struct lm_model *m)
{
    return m->stored ? m->n_stored : m->n_tensors;
}

const struct lm_tensor *lm_model_stored(const struct lm_model *m, size_t i)
{
    return m->stored ? &m->stored[i] : &m->tensors[i];
}

const struct lm_tensor *lm_model_find(const struct lm_model *m, const char *name)
{
    size_t i = lm_map_get(m->by_name, lm_span_str(name));
    return i == SIZE_MAX ? NULL : &m->tensors[i];
}

const struct lm_meta *lm_model_meta(const struct lm_model *m)
{
    return m->meta;
}

struct lm_meta *lm_model_meta_mut(struct lm_model *m)
{
    return m->meta;
}

struct lm_arena *lm_model_arena(struct lm_model *m)
{
    return &m->arena;
}

const char *lm_model_refused(const struct lm_model *m)
{
    return m->refused;
}

size_t lm_model_n_left_out(const struct lm_model *m)
{
    return m->n_left_out;
}

const char *lm_model_left_out(const struct lm_model *m, size_t i)
{
    return m->left_out[i];
}

int lmi_model_leave_out(struct lm_model *m, struct lm_span path, struct lm_span text, bool refused, struct lm_err *e)
{
    char **bigger = m->left_out, *sentence;
    struct lm_err shown;

    if ((m->n_left_out & (m->n_left_out - 1)) == 0) /* room is a power of two */
        bigger = reallocarray(bigger, m->n_left_out ? 2 * m->n_left_out : 1, sizeof *bigger);
    if (!bigger)
        return lmi_nomem(e);
    m->left_out = bigger;
    /* As messages are: bytes of the file cannot harm a terminal. */
    lm_err_set(&shown, LM_UNSUPPORTED, "'/%.*s': %.*s", LMI_SHOW(path), (int)(text.size < 700 ? text.size : 700),
               text.size ? (const char *)text.data : "");
    sentence = lm_arena_str(&m->arena, lm_span_str(shown.text));
    if (!sentence)
        return lmi_nomem(e);
    if (refused && !m->refused)
        m->refused = sentence;
    m->left_out[m->n_left_out++] = sentence;
    return 0;
}

size_t lm_model_n_files(const struct lm_model *m)
{
    return m->n_files;
}

const struct lm_model_file *lm_model_file(const struct lm_model *m, size_t i)
{
    return &m->files[i];
}
