/* lm-trace: the path of a text through a model. */
#include <math.h>
#include <stdlib.h>

#include "cmd/trace.h"

/* ---- helpers of both outputs */

double trace_norm(const float *x, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return sqrt(sum);
}

double trace_value(const struct trace *t, const struct lm_tensor *of, const float *row, uint64_t row_index, size_t i)
{
    uint8_t raw[8];
    double v;

    if (of->dtype != LM_F64) /* every other type fits f32 */
        return row[i];
    lm_tensor_read(of, (row_index * t->config->d_model + i) * 8, 8, raw);
    uint64_t bits = lm_load_u64le(raw);
    memcpy(&v, &bits, 8);
    return v;
}

const char *trace_shape(const struct trace *t, enum lm_role r, int layer, char *buf, size_t size)
{
    const struct lm_tensor *w = lm_bound_tensor(lm_engine_binding(t->l.engine), r, layer);
    char shape[200];

    if (w)
        snprintf(buf, size, "%s %s", lm_tensor_shape_str(w, shape, sizeof shape), lm_dtype_name(w->dtype));
    return w ? buf : "";
}

/* ---- gathering */

static void add_look(struct trace_layer *l, size_t position, double weight)
{
    size_t i = l->n_looks < TRACE_LOOKS ? l->n_looks++ : TRACE_LOOKS;

    for (; i > 0 && weight > l->looks[i - 1].weight; i--)
        if (i < TRACE_LOOKS)
            l->looks[i] = l->looks[i - 1];
    if (i < TRACE_LOOKS)
        l->looks[i] = (struct trace_look){position, weight};
}

/* probs [n_heads, n] */
static void see_attention(struct trace_layer *l, const float *probs, size_t n_heads, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t h = 0; h < n_heads; h++) {
            double w = probs[h * n + i];
            sum += w;
            if (w > l->head_look.weight) {
                l->head = (uint32_t)h;
                l->head_look = (struct trace_look){i, w};
            }
        }
        add_look(l, i, sum / (double)n_heads);
    }
}

static int see(void *user, enum lm_tap_point point, int layer, const float *x, size_t n, size_t width, size_t pos0,
               struct lm_err *e)
{
    struct trace *t = user;
    struct trace_layer *l = layer >= 0 ? &t->layers[layer] : NULL;

    (void)e;
    if (point == LM_TAP_PROBS) {
        if (width == t->at + 1)
            see_attention(l, x, n, width);
        return 0;
    }
    if (t->at < pos0 || t->at >= pos0 + n)
        return 0;
    const float *row = x + (t->at - pos0) * width;
    if (point == LM_TAP_INPUT)
        memcpy(t->input, row, width * sizeof *row);
    else if (point == LM_TAP_ATTN)
        l->norm_attn = trace_norm(row, width);
    else
        l->norm_out = trace_norm(row, width);
    return 0;
}

static int run_model(struct trace *t, float *logits, struct lm_err *e)
{
    size_t followed = t->at + 1, rest = t->ids.n - followed;
    unsigned mask = 1u << LM_TAP_INPUT | 1u << LM_TAP_ATTN | 1u << LM_TAP_LAYER | 1u << LM_TAP_PROBS;

    lm_session_set_tap(t->l.session, mask, see, t);
    if (lm_session_eval(t->l.session, t->ids.ids, followed, rest ? LM_LOGITS_NONE : LM_LOGITS_LAST,
                        rest ? NULL : logits, e) != 0)
        return -1;
    lm_session_set_tap(t->l.session, 0, NULL, NULL);
    return rest ? lm_session_eval(t->l.session, t->ids.ids + followed, rest, LM_LOGITS_LAST, logits, e) : 0;
}

static void find_next(struct trace *t, float *logits)
{
    size_t n = t->config->vocab_size;

    for (; t->n_next < (size_t)t->o.top && t->n_next < n; t->n_next++) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i < n; i++) {
            bool taken = false;
            for (size_t k = 0; k < t->n_next; k++)
                taken |= t->next[k].id == (int32_t)i;
            if (!taken && (best == SIZE_MAX || logits[i] > logits[best]))
                best = i;
        }
        t->next[t->n_next] = (struct trace_next){(int32_t)best, exp(lm_log_softmax_at(logits, n, best))};
    }
}

static int read_rows(struct trace *t, struct lm_err *e)
{
    const struct lm_binding *b = lm_engine_binding(t->l.engine);
    uint64_t d = t->config->d_model;

    t->embedding = lm_bound_tensor(b, LM_ROLE_TOKEN_EMBD, -1);
    t->positions = lm_bound_tensor(b, LM_ROLE_POS_EMBD, -1);
    if (t->positions && lm_tensor_to_f32(t->positions, t->at * d, d, t->pos_row, e) != 0)
        return -1;
    return lm_tensor_to_f32(t->embedding, (uint64_t)t->ids.ids[t->at] * d, d, t->row, e);
}

static void count_params(struct trace *t)
{
    for (size_t i = 0; i < lm_model_n_tensors(t->l.model); i++)
        t->n_params += lm_model_tensor(t->l.model, i)->n_elems;
}

static int gather(struct trace *t, struct lm_err *e)
{
    size_t d = t->config->d_model;
    float *logits = malloc(t->config->vocab_size * sizeof *logits);
    int r = -1;

    t->row = calloc(3 * d, sizeof *t->row);
    t->freqs = calloc(t->config->d_rope / 2 + 1, sizeof *t->freqs);
    t->layers = calloc(t->config->n_layers, sizeof *t->layers);
    t->next = calloc((size_t)t->o.top + 1, sizeof *t->next);
    if (!logits || !t->row || !t->freqs || !t->layers || !t->next) {
        lm_err_set(e, LM_NOMEM, "no memory for what is to be shown");
        goto out;
    }
    t->pos_row = t->row + d;
    t->input = t->row + 2 * d;
    if (!t->config->arch->learned_positions)
        lm_rope_freqs(t->config, t->freqs, &t->mscale);
    r = read_rows(t, e) == 0 && run_model(t, logits, e) == 0 ? 0 : -1;
    for (uint32_t i = 0; r == 0 && i < t->config->n_layers; i++)
        t->layers[i].norm_in = i ? t->layers[i - 1].norm_out : trace_norm(t->input, d);
    if (r == 0)
        find_next(t, logits);
    count_params(t);
out:
    free(logits);
    return r;
}

static int prepare(struct trace *t, const char *path, const char *text_arg, struct lm_err *e)
{
    char *text = NULL;
    size_t n;

    if (t->o.top < 0 || t->o.token < -1)
        return lm_err_set(e, LM_USAGE, "--top and --token are numbers from 0 up");
    if (cli_read_text(&text, &n, text_arg, t->o.file, e) != 0)
        return -1;
    int r = cli_load(&t->l, path, true, e);
    if (r == 0)
        r = cli_encode(&t->l, lm_span_of(text, n), t->o.special ? LM_ENCODE_SPECIAL : 0, &t->ids, e);
    free(text);
    if (r != 0)
        return -1;
    if (t->ids.n == 0)
        return lm_err_set(e, LM_USAGE, "the text has no tokens");
    t->at = t->o.token < 0 ? t->ids.n - 1 : (size_t)t->o.token;
    if (t->at >= t->ids.n)
        return lm_err_set(e, LM_USAGE, "--token %d: the text has %zu tokens, 0 to %zu", t->o.token, t->ids.n,
                          t->ids.n - 1);
    t->o.engine.math = CLI_MATH_EXACT;
    if (cli_start(&t->l, &t->o.engine, t->ids.n, e) != 0)
        return -1;
    t->config = lm_engine_config(t->l.engine);
    return 0;
}

/* ---- the command */

#define AT(field) offsetof(struct trace_opts, field)
static const struct cli_opt opts[] = {
    {"token", 't', CLI_INT, "N", AT(token), "Follow the token at this position, counted from 0 (default: the last).",
     NULL},
    {"top", 'k', CLI_INT, "K", AT(top), "Show the K likeliest next tokens (default 5).", NULL},
    {"file", 'f', CLI_STRING, "FILE", AT(file), "Take the text from a file (- for standard input).", NULL},
    {"special", 0, CLI_FLAG, NULL, AT(special), "Read control tokens such as </s> in the text as tokens.", NULL},
    CLI_ENGINE_ROWS(AT(engine)),
    {"json", 0, CLI_FLAG, NULL, AT(json), "JSON on standard output.", NULL},
    {"html", 0, CLI_STRING, "FILE", AT(html), "Write one self-contained page with pictures instead.", NULL},
    {"force", 0, CLI_FLAG, NULL, AT(force), "Replace FILE when it exists.", NULL},
    {NULL, 0, 0, NULL, 0, NULL, NULL}};

static const struct cli_cmd cmd = {
    .name = "lm-trace",
    .brief = "follow a text through a model, from pieces to the next token",
    .synopsis = "MODEL TEXT",
    .about =
        "Shows what happens to a text inside a model, with the numbers of that model: the pieces it is cut into and "
        "their ids; the row of the embedding matrix that the followed token's id picks; how its position is laid on "
        "it (added, or as a rotation of queries and keys); layer by layer, which tokens attention looks at (mean over "
        "heads, and the head that is surest) and how long the vector of the residual stream is before attention, "
        "after it and after the feed-forward network; and the tokens that are likeliest to come next after the whole "
        "text.\n"
        "\n"
        "With --html: a page that needs nothing but a browser, with the same path as pictures: the pieces, the rows of "
        "the embedding matrix, the pattern of positions, what every head looks at, the length of every token's vector "
        "in every layer, and what is likeliest to follow each token.\n"
        "\n"
        "Numbers of the embedding are exact: the fewest digits that give back what is stored.\n"
        "\n"
        "With --json: an object with tokens (id piece), token (the followed position), embedding (tensor dtype shape "
        "row n_params share norm first), position (kind rope: pairs of pair frequency angle, and scale; kind learned: "
        "tensor shape norm first, sum_norm), layers (layer shapes norm_in norm_attention norm_out looks_at "
        "strongest_head; shapes by role, looks_at of position and weight) and next (id piece p).\n",
    .opts = opts,
    .examples = "  $ lm-trace model.gguf 'Cały dzień biegałem z taczką i przewoziłem piasek'\n"
                "  $ lm-trace model/ -f text.txt --token 3 --top 10\n",
    .min_args = 1,
    .max_args = 2};

int main(int argc, char **argv)
{
    struct trace t = {.o = {.token = -1, .top = 5}};
    struct lm_err e;

    int n = cli_parse(&cmd, argc, argv, &t.o);
    int r = prepare(&t, argv[1], n == 2 ? argv[2] : NULL, &e);
    if (r == 0)
        r = gather(&t, &e);
    if (r == 0 && t.o.html)
        r = trace_write_html(&t, &e);
    else if (r == 0 && t.o.json)
        cli_json_print(trace_json(&t));
    else if (r == 0)
        trace_print(&t);
    free(t.row);
    free(t.freqs);
    free(t.layers);
    free(t.next);
    lm_ids_free(&t.ids);
    cli_unload(&t.l);
    return cli_finish(r == 0 ? CLI_OK : cli_fail(&e));
}
