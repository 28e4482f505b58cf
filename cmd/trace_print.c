/* lm-trace for people: coloured on a terminal, the same text when piped. */
#include <math.h>
#include <stdlib.h>

#include "cmd/trace.h"

static const char *const papers[] = {"\033[30;48;5;223m", "\033[30;48;5;152m", "\033[30;48;5;194m",
                                     "\033[30;48;5;225m", "\033[30;48;5;189m"};
enum { N_PAPERS = sizeof papers / sizeof papers[0] };

static void heading(int number, const char *title)
{
    bool color = cli_color(stdout);

    printf("%s%s%d  %s%s\n", number > 1 ? "\n" : "", color ? "\033[1m" : "", number, title, color ? "\033[0m" : "");
}

/* ---- 1: pieces and ids */

static size_t cell_width(const struct trace *t, size_t i)
{
    char id[16];
    size_t piece = cli_text_width(cli_piece(&t->l, t->ids.ids[i]));
    int n = snprintf(id, sizeof id, "%d", t->ids.ids[i]);

    return piece > (size_t)n ? piece : (size_t)n;
}

/* A piece, or its id, in a cell; nothing behind the last of a line. */
static void print_cell(const struct trace *t, size_t i, bool as_id, bool last, bool color)
{
    const char *piece = cli_piece(&t->l, t->ids.ids[i]);
    char id[16];
    const char *text = as_id ? id : piece;

    snprintf(id, sizeof id, "%d", t->ids.ids[i]);
    int pad = last ? 0 : (int)(cell_width(t, i) - cli_text_width(text)) + 1;
    if (color && !as_id)
        printf("%s%s%s\033[0m%*s", papers[i % N_PAPERS], i == t->at ? "\033[1;4m" : "", text, pad, "");
    else
        printf("%s%*s", text, pad, "");
}

/* Lines of pieces with their ids below, as many as fit. */
static void print_pieces(const struct trace *t)
{
    bool color = cli_color(stdout);
    size_t width = cli_width(stdout, 80);

    for (size_t i = 0, end; i < t->ids.n; i = end) {
        size_t used = 3 + cell_width(t, i) + 1;
        for (end = i + 1; end < t->ids.n && used + cell_width(t, end) + 1 <= width; end++)
            used += cell_width(t, end) + 1;
        for (int as_id = 0; as_id < 2; as_id++) {
            printf("   ");
            for (size_t k = i; k < end; k++)
                print_cell(t, k, as_id, k + 1 == end, color);
            putchar('\n');
        }
    }
    printf("   %zu tokens of %zu pieces in the vocabulary (%s)\n", t->ids.n, t->l.vocab->n_pieces, t->l.vocab->source);
}

/* ---- 2: the embedding */

/* The fewest digits that give the number back. */
static const char *exact(double v, char *buf, size_t size)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(buf, size, "%.*g", digits, v);
        if (strtod(buf, NULL) == v)
            break;
    }
    return buf;
}

static void print_first(const struct trace *t, const struct lm_tensor *of, const float *row, uint64_t row_index)
{
    size_t d = t->config->d_model, used = 2, width = cli_width(stdout, 80);

    printf("  ");
    for (size_t i = 0; i < d && i < TRACE_FIRST; i++) {
        char text[40];
        size_t n = strlen(exact(trace_value(t, of, row, row_index, i), text, sizeof text));
        if (used + n + 1 > width) {
            printf("\n  ");
            used = 2;
        }
        printf(" %s", text);
        used += n + 1;
    }
    printf(d > TRACE_FIRST ? " … %zu more\n" : "\n", d - TRACE_FIRST);
}

static void print_embedding(const struct trace *t)
{
    const struct lm_tensor *w = t->embedding;
    uint32_t d = t->config->d_model;
    int32_t id = t->ids.ids[t->at];
    char shape[200], vocab[40], params[40];

    printf("   %s %s %s\n", cli_safe(lm_span_str(w->name)), lm_tensor_shape_str(w, shape, sizeof shape),
           lm_dtype_name(w->dtype));
    printf("   %s × %u = %s parameters = %.2f %% of the model\n",
           cli_count(vocab, sizeof vocab, w->n_elems / d), d, cli_count(params, sizeof params, w->n_elems),
           100 * (double)w->n_elems / (double)t->n_params);
    printf("   token %zu is %s, so row %d: %u numbers, length %.4f\n", t->at, cli_piece(&t->l, id), id, d,
           trace_norm(t->row, d));
    print_first(t, w, t->row, (uint64_t)id);
}

/* ---- 3: the position */

static void print_learned(const struct trace *t)
{
    char shape[200];
    uint32_t d = t->config->d_model;

    printf("   %s %s %s\n", cli_safe(lm_span_str(t->positions->name)),
           lm_tensor_shape_str(t->positions, shape, sizeof shape), lm_dtype_name(t->positions->dtype));
    printf("   position %zu has its own row of %u numbers, length %.4f\n", t->at, d, trace_norm(t->pos_row, d));
    print_first(t, t->positions, t->pos_row, t->at);
    printf("   added to the embedding it gives what enters the first layer, length %.4f\n", trace_norm(t->input, d));
}

static void print_pair(struct cli_table *table, const struct trace *t, uint32_t pair)
{
    uint32_t half = t->config->d_rope / 2;
    bool adjacent = lm_engine_binding(t->l.engine)->rope == LM_ROPE_ADJACENT;
    double f = t->freqs[pair], angle = (double)t->at * f;
    char name[16], dims[40], freq[32], turn[32], text[32], degrees[32];

    snprintf(name, sizeof name, "%u", pair);
    snprintf(dims, sizeof dims, "%u, %u", adjacent ? 2 * pair : pair, adjacent ? 2 * pair + 1 : pair + half);
    snprintf(freq, sizeof freq, "%.6g", f);
    snprintf(turn, sizeof turn, "%.1f", 6.283185307179586 / f);
    snprintf(text, sizeof text, "%.4f", angle);
    snprintf(degrees, sizeof degrees, "%.1f°", fmod(angle * 57.29577951308232, 360));
    cli_table_row(table, "", name, dims, freq, turn, text, degrees);
}

static void print_rope(const struct trace *t)
{
    static const char *const heads[] = {" ", "pair", "numbers", "radians a position", "positions a turn", "angle here",
                                        ""};
    struct cli_table *table = cli_table_new(heads, "lrrrrrr");
    uint32_t half = t->config->d_rope / 2, shown[] = {0, 1, 2, half / 4, half / 2, 3 * half / 4, half - 1};

    printf("   position %zu is not added: in each head, queries and keys are rotated, pair by pair of their %u numbers\n",
           t->at, t->config->d_rope);
    for (size_t i = 0, last = 0; i < sizeof shown / sizeof shown[0]; i++) {
        if (shown[i] < half && (i == 0 || shown[i] > last)) {
            print_pair(table, t, shown[i]);
            last = shown[i];
        }
    }
    cli_table_print(table, stdout);
    if (t->mscale != 1)
        printf("   cosines and sines are multiplied by %.4f\n", t->mscale);
}

/* ---- 4: layers */

static void print_matrix(const struct trace *t, const char *name, enum lm_role role, const char *what)
{
    char shape[260];
    const char *s = trace_shape(t, role, 0, shape, sizeof shape);

    if (*s)
        printf("   %-6s %-24s %s\n", name, s, what);
}

static void print_matrices(const struct trace *t)
{
    const struct lm_config *c = t->config;
    char q[80], kv[80];

    snprintf(q, sizeof q, "queries: %u heads of %u", c->n_heads, c->d_head);
    snprintf(kv, sizeof kv, "keys: %u heads of %u", c->n_kv_heads, c->d_head);
    print_matrix(t, "Q", LM_ROLE_ATTN_Q, q);
    print_matrix(t, "K", LM_ROLE_ATTN_K, kv);
    snprintf(kv, sizeof kv, "values: %u heads of %u", c->n_kv_heads, c->d_head);
    print_matrix(t, "V", LM_ROLE_ATTN_V, kv);
    print_matrix(t, "QKV", LM_ROLE_ATTN_QKV, "queries, keys and values in one");
    print_matrix(t, "out", LM_ROLE_ATTN_OUT, "what the heads found, back onto the vector");
    print_matrix(t, "gate", LM_ROLE_FFN_GATE, "feed-forward: how much of each");
    print_matrix(t, "up", LM_ROLE_FFN_UP, "feed-forward: wider");
    print_matrix(t, "down", LM_ROLE_FFN_DOWN, "feed-forward: back");
}

static void look_text(const struct trace *t, struct trace_look l, char *buf, size_t size)
{
    snprintf(buf, size, "%s (%zu) %.0f %%", cli_piece(&t->l, t->ids.ids[l.position]), l.position, 100 * l.weight);
}

static void print_layers(const struct trace *t)
{
    static const char *const heads[] = {" ", "layer", "length", "attention looks at (mean of the heads)", "surest head",
                                        "after it", "after feed-forward"};
    struct cli_table *table = cli_table_new(heads, "lrrllrr");

    for (uint32_t i = 0; i < t->config->n_layers; i++) {
        const struct trace_layer *l = &t->layers[i];
        char layer[16], in[32], looks[1000] = "", head[340], look[300], attn[32], out[32];
        size_t n = 0;
        for (size_t k = 0; k < l->n_looks && n < sizeof looks; k++) {
            look_text(t, l->looks[k], look, sizeof look);
            n += (size_t)snprintf(looks + n, sizeof looks - n, "%s%s", k ? ", " : "", look);
        }
        look_text(t, l->head_look, look, sizeof look);
        snprintf(head, sizeof head, "%u: %s", l->head, look);
        snprintf(layer, sizeof layer, "%u", i);
        snprintf(in, sizeof in, "%.2f", l->norm_in);
        snprintf(attn, sizeof attn, "%.2f", l->norm_attn);
        snprintf(out, sizeof out, "%.2f", l->norm_out);
        cli_table_row(table, "", layer, in, looks, head, attn, out);
    }
    cli_table_print(table, stdout);
}

/* ---- 5: what comes next */

static void print_next(const struct trace *t)
{
    static const char *const heads[] = {" ", "id", "piece", "probability", ""};
    struct cli_table *table = cli_table_new(heads, "lrlrl");

    for (size_t i = 0; i < t->n_next; i++) {
        char id[16], p[32], bar[40 * 3 + 1] = "";
        snprintf(id, sizeof id, "%d", t->next[i].id);
        snprintf(p, sizeof p, "%.2f %%", 100 * t->next[i].p);
        for (int k = 0; k < (int)(40 * t->next[i].p + 0.5); k++)
            strcat(bar, "█");
        cli_table_row(table, "", id, cli_piece(&t->l, t->next[i].id), p, bar);
    }
    cli_table_print(table, stdout);
}

void trace_print(const struct trace *t)
{
    char title[120];

    heading(1, "The text, cut into pieces, each with its id");
    print_pieces(t);
    heading(2, "The id picks a row of the embedding matrix");
    print_embedding(t);
    heading(3, "The token's position");
    if (t->positions)
        print_learned(t);
    else
        print_rope(t);
    snprintf(title, sizeof title, "Through %u layers, followed at token %zu", t->config->n_layers, t->at);
    heading(4, title);
    print_matrices(t);
    print_layers(t);
    heading(5, "The likeliest next tokens");
    print_next(t);
}
