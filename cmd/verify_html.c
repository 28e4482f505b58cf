/* The page of --report: cmd/verify_page.html with what --json prints and the divergence along the text. */
#include <math.h>

#include "cmd/cli_page.h"
#include "cmd/verify.h"

CLI_PAGE(verify_page, "cmd/verify_page.html");

enum { DRAWN = 600 };

/* [first position, mean, max] of runs of positions. */
static json_t *course(const struct verify *v)
{
    size_t step = (v->ids.n + DRAWN - 1) / DRAWN;
    json_t *a = json_array();

    for (size_t i = 0; i < v->ids.n; i += step) {
        size_t n = v->ids.n - i < step ? v->ids.n - i : step;
        double sum = 0, most = 0;
        for (size_t k = i; k < i + n; k++) {
            sum += v->kld[k];
            most = v->kld[k] > most || isnan(v->kld[k]) ? v->kld[k] : most;
        }
        json_array_append_new(a, json_pack("[I, o, o]", (json_int_t)i, cli_json_real(sum / (double)n),
                                           cli_json_real(most)));
    }
    return a;
}

int verify_write_html(const struct verify *v, struct lm_err *e)
{
    json_t *o = verify_json(v);

    json_object_del(o, "positions");
    json_object_set_new(o, "a", cli_json_str(lm_span_str(v->path_a)));
    json_object_set_new(o, "b", cli_json_str(lm_span_str(v->path_b)));
    json_object_set_new(o, "reference", json_boolean(v->reference != NULL));
    json_object_set_new(o, "why_no_layers", v->why_no_layers ? json_string(v->why_no_layers) : json_null());
    json_object_set_new(o, "course", course(v));
    return cli_page_write(v->o.report, v->o.force, verify_page, verify_page_end, o, e);
}
