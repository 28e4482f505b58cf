/* The page of --html: cmd/audit_page.html with the audit's data put in. */
#include "cmd/audit_show.h"
#include "cmd/cli_page.h"

CLI_PAGE(audit_page, "cmd/audit_page.html");

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

int audit_write_html(const struct lm_audit *a, const char *path, bool force, struct lm_err *e)
{
    json_t *data = audit_json(a);

    json_object_set_new(data, "vocab", vocab_json(a));
    return cli_page_write(path, force, audit_page, audit_page_end, data, e);
}
