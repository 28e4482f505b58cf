/* The small files of a checkpoint that are not tensors. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libmodel/fmt/fmt.h"

const char *const lm_sidecar_names[] = {
    "config.json",       "generation_config.json", "tokenizer.model",     "tokenizer.json",     "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
    "chat_template.json", NULL,
};

/* Far above any real one (tokenizer.json reaches 35 MB). */
enum { MAX_SIDECAR = 512 << 20 };

struct lmi_sidecar {
    struct lmi_sidecar *next;
    char *name;
    uint8_t *data;
    size_t size;
};

void lmi_sidecars_free(struct lm_model *m)
{
    while (m->sidecars) {
        struct lmi_sidecar *next = m->sidecars->next;
        free(m->sidecars->data);
        free(m->sidecars->name);
        free(m->sidecars);
        m->sidecars = next;
    }
}

/* 1 and the metadata value as bytes, 0 no such key, -1 some other type. */
static int from_meta(const struct lm_model *m, const char *key, struct lm_span *out, struct lm_err *e)
{
    const struct lm_meta_value *v = lm_meta_get(m->meta, key);

    if (!v)
        return 0;
    if (v->type == LM_META_STR)
        *out = v->str;
    else if (v->type == LM_META_ARRAY && v->elem == LM_META_U8)
        *out = lm_span_of(v->data, v->n);
    else
        return lm_err_set(e, LM_MALFORMED, "%s: metadata key '%s' holds a file, expected a string or an array of u8",
                          m->path, key);
    return 1;
}

static int from_container(const struct lm_model *m, const char *name, struct lm_span *out, struct lm_err *e)
{
    char key[300];

    snprintf(key, sizeof key, "libmodel.source.%s", name);
    int rc = from_meta(m, key, out, e);
    if (rc == 0 && strcmp(name, "tokenizer.json") == 0)
        rc = from_meta(m, "tokenizer.huggingface.json", out, e);
    return rc;
}

static int read_all(int fd, const char *path, struct lmi_sidecar *s, struct lm_err *e)
{
    size_t n = 0;

    while (n < s->size) {
        ssize_t got = pread(fd, s->data + n, s->size - n, (off_t)n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return lm_err_errno(e, "%s: cannot read", path);
        if (got == 0)
            return lm_err_set(e, LM_IO, "%s: became shorter while it was read; try again", path);
        n += (size_t)got;
    }
    return 0;
}

/* Read, not mapped: a program that edits it meanwhile must not crash us. */
static int load(int fd, const char *path, struct lmi_sidecar *s, struct lm_err *e)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return lm_err_errno(e, "%s: cannot examine", path);
    if (!S_ISREG(st.st_mode))
        return lm_err_set(e, LM_MALFORMED, "%s: not a regular file", path);
    if (st.st_size > MAX_SIDECAR)
        return lm_err_set(e, LM_LIMIT, "%s: %lld bytes, at most %d are read", path, (long long)st.st_size, MAX_SIDECAR);
    s->size = (size_t)st.st_size;
    s->data = calloc(1, s->size + 1);
    if (!s->data)
        return lmi_nomem(e);
    return read_all(fd, path, s, e);
}

static int from_folder(struct lm_model *m, const char *name, struct lmi_sidecar *s, struct lm_err *e)
{
    char *path = lmi_beside(&m->arena, m->sidecar_dir, name);

    s->name = strdup(name);
    if (!path || !s->name)
        return lmi_nomem(e);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? 0 : lm_err_errno(e, "%s: cannot open", path);
    int rc = load(fd, path, s, e);
    close(fd);
    return rc < 0 ? -1 : 1;
}

static const struct lmi_sidecar *loaded(const struct lm_model *m, const char *name)
{
    const struct lmi_sidecar *s = m->sidecars;

    while (s && strcmp(s->name, name) != 0)
        s = s->next;
    return s;
}

int lm_model_sidecar(struct lm_model *m, const char *name, struct lm_span *out, struct lm_err *e)
{
    size_t n = strlen(name);

    if (n == 0 || n > 255 || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return lm_err_set(e, LM_USAGE, "'%s' is not a plain file name", name);
    if (!m->sidecar_dir)
        return from_container(m, name, out, e);
    const struct lmi_sidecar *have = loaded(m, name);
    if (have) {
        *out = lm_span_of(have->data, have->size);
        return 1;
    }
    struct lmi_sidecar *s = calloc(1, sizeof *s);
    if (!s)
        return lmi_nomem(e);
    int rc = from_folder(m, name, s, e);
    if (rc != 1) {
        free(s->name);
        free(s->data);
        free(s);
        return rc;
    }
    s->next = m->sidecars;
    m->sidecars = s;
    *out = lm_span_of(s->data, s->size);
    return 1;
}
