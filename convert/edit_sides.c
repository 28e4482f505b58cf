#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/edit_parts.h"
#include "convert/stream.h"

enum { MOST_BYTES = 64 << 20 };

static char *beside(const struct lm_model *m, const char *name)
{
    const char *path = lm_model_file(m, 0)->path, *base = lmc_base_name(path);
    char *out = NULL;

    return asprintf(&out, "%.*s%s", (int)(base - path), path, name) < 0 ? NULL : out;
}

/* 1 read, 0 there is none, -1. */
static int read_small(uint8_t **data, size_t *n, const char *path, struct lm_err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat s;
    int rc = 1;

    *data = NULL;
    if (fd < 0)
        return errno == ENOENT ? 0 : lm_err_errno(e, "%s: cannot be opened", path);
    if (fstat(fd, &s) < 0 || !S_ISREG(s.st_mode) || s.st_size > MOST_BYTES)
        rc = lm_err_set(e, LM_UNSUPPORTED, "%s: not a regular file of a size that is reasonable", path);
    *n = rc == 1 ? (size_t)s.st_size : 0;
    if (rc == 1 && !(*data = malloc(*n + 1)))
        rc = lmc_nomem(e);
    if (rc == 1 && lmc_pread_all(fd, *data, *n, 0, e))
        rc = -1;
    close(fd);
    return rc;
}

static int write_small(const char *path, const void *data, size_t n, struct lm_err *e)
{
    const char *base = lmc_base_name(path);
    char *dir = base == path ? strdup(".") : strndup(path, (size_t)(base - path));
    struct lm_commit *c = NULL;
    int fd;

    if (!dir)
        return lmc_nomem(e);
    int rc = lm_commit_begin(&c, dir, true, e) || lm_commit_add(c, base, n, &fd, e) || lm_pwrite_all(fd, data, n, 0, e) ? -1 : 0;
    if (rc == 0)
        rc = lm_commit_finish(c, e);
    else
        lm_commit_abort(c);
    free(dir);
    return rc;
}

/* In tokenizer_config.json. */
static int in_config(const char *path, struct lm_span text, bool dry, struct lm_err *e)
{
    uint8_t *old;
    size_t n;
    char *now = NULL;
    int rc = read_small(&old, &n, path, e);

    if (rc == 0)
        return lm_err_set(e, LM_MISSING, "%s: there is no such file, and no chat_template.jinja: where a chat template would "
                          "belong", path);
    if (rc == 1)
        rc = lmc_json_set_template(&now, lm_span_of(old, n), text, e);
    if (rc == 0)
        rc = lm_err_set(e, LM_UNSUPPORTED, "%s: its chat templates have names, and none is called default", path);
    else if (rc < 0)
        lm_err_prefix(e, "%s", path);
    if (rc == 1)
        rc = dry ? 0 : write_small(path, now, strlen(now), e);
    free(now);
    free(old);
    return rc;
}

int lmc_edit_template(char **where, const struct lm_model *m, struct lm_span text, bool dry, struct lm_err *e)
{
    char *jinja = beside(m, "chat_template.jinja"), *config = beside(m, "tokenizer_config.json");
    int rc = jinja && config ? 0 : lmc_nomem(e);
    bool is_there = rc == 0 && access(jinja, F_OK) == 0;

    if (rc == 0)
        rc = is_there ? dry ? 0 : write_small(jinja, text.data, text.size, e) : in_config(config, text, dry, e);
    *where = rc == 0 ? is_there ? jinja : config : NULL;
    free(rc || !is_there ? jinja : NULL);
    free(rc || is_there ? config : NULL);
    return rc;
}

int lmc_edit_index(char **path, char **out, const struct lm_model *m, const struct lm_edit *edits, size_t n, struct lm_err *e)
{
    const char *base = lmc_base_name(lm_model_file(m, 0)->path), *of = strstr(base, "-00001-of-");
    char *name = NULL;
    uint8_t *text = NULL;
    size_t size;

    *out = NULL;
    *path = NULL;
    if (asprintf(&name, "%.*s.safetensors.index.json", of ? (int)(of - base) : 5, of ? base : "model") < 0)
        return lmc_nomem(e);
    *path = beside(m, name);
    free(name);
    int rc = *path ? read_small(&text, &size, *path, e) : lmc_nomem(e);
    for (size_t i = 0; rc == 1 && i < n; i++) {
        char *now = NULL;
        if (edits[i].what != LM_EDIT_RENAME || !lm_model_find(m, edits[i].key))
            continue;
        rc = lmc_json_rename_weight(&now, *out ? lm_span_str(*out) : lm_span_of(text, size), edits[i].key, edits[i].to, e);
        if (rc == 0)
            rc = lm_err_set(e, LM_MALFORMED, "%s does not name '%s'", *path, edits[i].key);
        if (rc == 1) {
            free(*out);
            *out = now;
        }
    }
    free(text);
    return rc < 0 ? -1 : 0;
}
