/* The page of --html: cmd/audit_page.html with the audit's data put in. */
#include "cmd/audit_show.h"

#include <stdlib.h>

/* The page is a file of its own, so that it can be edited and opened as one. */
extern const char audit_page[], audit_page_end[];
__asm__(".section .rodata\n"
        ".global audit_page, audit_page_end\n"
        ".type audit_page, @object\n"
        "audit_page:\n"
        ".incbin \"cmd/audit_page.html\"\n"
        "audit_page_end:\n"
        ".byte 0\n"
        ".size audit_page, audit_page_end - audit_page\n"
        ".text\n");

enum { MAX_PIECES = 40000 };

/* Text of pieces, and what each is; large vocabularies are cut, and say so. */
static json_t *vocab_json(const struct lm_audit *a)
{
    json_t *list = json_array();

    for (size_t i = 0; a->vocab && i < a->vocab->n_pieces && i < MAX_PIECES; i++) {
        const struct lm_piece *p = &a->vocab->pieces[i];
        json_array_append_new(list, json_pack("[o, i]", cli_json_str(p->text), (int)p->kind));
    }
    return json_pack("{s:I, s:o}", "n", (json_int_t)(a->vocab ? a->vocab->n_pieces : 0), "pieces", list);
}

/* JSON inside a script element: "</" would end it. */
static void put_json(FILE *f, json_t *root)
{
    char *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(6));

    for (const char *p = text; p && *p; p++) {
        if (*p == '<')
            fputs("\\u003c", f);
        else
            fputc(*p, f);
    }
    free(text);
}

static char *page(const struct lm_audit *a, size_t *n)
{
    static const char mark[] = "/*DATA*/";
    const char *at = memmem(audit_page, (size_t)(audit_page_end - audit_page), mark, sizeof mark - 1);
    json_t *data = audit_json(a);
    char *text = NULL;
    FILE *f = open_memstream(&text, n);

    if (f && at) {
        json_object_set_new(data, "vocab", vocab_json(a));
        fwrite(audit_page, 1, (size_t)(at - audit_page), f);
        put_json(f, data);
        fwrite(at + sizeof mark - 1, 1, (size_t)(audit_page_end - at) - sizeof mark + 1, f);
    }
    json_decref(data);
    if (f && fclose(f) != 0) {
        free(text);
        text = NULL;
    }
    return text;
}

int audit_write_html(const struct lm_audit *a, const char *path, bool force, struct lm_err *e)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    size_t n = 0;
    char *text = page(a, &n);
    struct lm_commit *c = NULL;
    int fd, rc = -1;

    if (!text || !dir)
        lm_err_set(e, LM_NOMEM, "out of memory");
    else if (lm_commit_begin(&c, dir, force, e) || lm_commit_add(c, slash ? slash + 1 : path, n, &fd, e) ||
             lm_pwrite_all(fd, text, n, 0, e))
        lm_commit_abort(c);
    else
        rc = lm_commit_finish(c, e);
    free(text);
    free(dir);
    return rc;
}
