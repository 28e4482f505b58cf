#include "cmd/cli_page.h"

#include <stdlib.h>

#include "convert/convert.h"

/* JSON inside a script element: "</" would end it. */
static void put_json(FILE *f, json_t *root)
{
    char *text = cli_json_text(root, JSON_COMPACT | JSON_REAL_PRECISION(6));

    for (const char *p = text; p && *p; p++) {
        if (*p == '<')
            fputs("\\u003c", f);
        else
            fputc(*p, f);
    }
    free(text);
}

static char *filled(const char *begin, const char *end, json_t *data, size_t *n)
{
    static const char mark[] = "/*DATA*/";
    const char *at = memmem(begin, (size_t)(end - begin), mark, sizeof mark - 1);
    char *text = NULL;
    FILE *f = open_memstream(&text, n);

    if (f && at) {
        fwrite(begin, 1, (size_t)(at - begin), f);
        put_json(f, data);
        fwrite(at + sizeof mark - 1, 1, (size_t)(end - at) - sizeof mark + 1, f);
    }
    if (f && fclose(f) != 0) {
        free(text);
        text = NULL;
    }
    return text;
}

int cli_page_write(const char *path, bool force, const char *begin, const char *end, json_t *data, struct lm_err *e)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, slash > path ? (size_t)(slash - path) : 1) : strdup(".");
    size_t n = 0;
    char *text = filled(begin, end, data, &n);
    struct lm_commit *c = NULL;
    int fd, code = -1;

    json_decref(data);
    if (!text || !dir)
        lm_err_set(e, LM_NOMEM, "out of memory");
    else if (lm_commit_begin(&c, dir, force, e) || lm_commit_add(c, slash ? slash + 1 : path, n, &fd, e) ||
             lm_pwrite_all(fd, text, n, 0, e))
        lm_commit_abort(c);
    else
        code = lm_commit_finish(c, e);
    free(text);
    free(dir);
    return code;
}
