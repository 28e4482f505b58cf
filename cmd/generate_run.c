/* Reading a prompt and going on from it. */
#include "cmd/generate.h"

#include <stdlib.h>

#include "libmodel/parse/json.h"

enum { CHUNK = 256, SINKS = 4 /* first tokens that a shifted context keeps (arXiv 2309.17453) */ };

/* ---- which ids end a text */

static void add_end(struct generation *g, int64_t id)
{
    if (id >= 0 && id <= INT32_MAX && g->n_ends < GENERATE_MAX_ENDS)
        g->ends[g->n_ends++] = (int32_t)id;
}

static void add_ends_of_json(struct generation *g, const json_t *v)
{
    size_t i;
    json_t *item;

    if (json_is_integer(v))
        add_end(g, json_integer_value(v));
    json_array_foreach(v, i, item)
        add_end(g, json_is_integer(item) ? json_integer_value(item) : -1);
}

/* The vocabulary names one; generation_config.json and GGUF may name more. A
 * token that begins a text ends the one before (llama2.c's stories do so). */
void generate_find_ends(struct generation *g)
{
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    uint64_t id = UINT64_MAX;
    struct lm_span text;
    struct lm_err e;

    if (g->o.ignore_eos)
        return;
    add_end(g, g->l.vocab->eos_id);
    add_end(g, g->l.vocab->bos_id);
    add_end(g, lm_engine_config(g->l.engine)->eos_id);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (lm_meta_get_u64(lm_model_meta(g->l.model), keys[i], &id, &e) == 1 && id <= INT32_MAX)
            add_end(g, (int64_t)id);
    if (lm_model_sidecar(g->l.model, "generation_config.json", &text, &e) != 1)
        return;
    json_t *config = lm_json_parse(text, "generation_config.json", &e);
    add_ends_of_json(g, json_object_get(config, "eos_token_id"));
    json_decref(config);
}

static bool is_end(const struct generation *g, int32_t id)
{
    for (size_t i = 0; i < g->n_ends; i++)
        if (g->ends[i] == id)
            return true;
    return false;
}

/* ---- the session */

int generate_ids_add(struct lm_ids *l, int32_t id, struct lm_err *e)
{
    if (l->n == l->capacity) {
        size_t capacity = l->capacity ? 2 * l->capacity : 64;
        int32_t *ids = realloc(l->ids, capacity * sizeof *ids);
        if (!ids)
            return lm_err_set(e, LM_NOMEM, "no memory for %zu ids", capacity);
        l->ids = ids;
        l->capacity = capacity;
    }
    l->ids[l->n++] = id;
    return 0;
}

/* Reads ids behind what the session holds. */
static int feed(struct generation *g, const int32_t *ids, size_t n, struct lm_err *e)
{
    for (size_t at = 0; at < n; at += CHUNK) {
        size_t k = n - at < CHUNK ? n - at : CHUNK;
        bool last = at + k == n;
        if (cli_stop)
            return lm_err_set(e, LM_INTERRUPTED, "interrupted while reading");
        if (lm_session_eval(g->l.session, ids + at, k, last ? LM_LOGITS_LAST : LM_LOGITS_NONE, last ? g->logits : NULL,
                            e) != 0)
            return -1;
        for (size_t i = 0; i < k; i++)
            if (generate_ids_add(&g->past, ids[at + i], e) != 0)
                return -1;
    }
    return 0;
}

int generate_read(struct generation *g, struct lm_err *e)
{
    const struct lm_ids *ids = &g->prompt;
    uint32_t ctx = lm_engine_ctx_len(g->l.engine);
    size_t same = 0;

    if (ids->n == 0)
        return lm_err_set(e, LM_USAGE, "the prompt is empty, and this checkpoint asks for no token before a text");
    if (ids->n > ctx)
        return lm_err_set(e, LM_USAGE, "the prompt has %zu tokens, the context %u; shorten it or raise --ctx", ids->n,
                          ctx);
    while (same < g->past.n && same + 1 < ids->n && g->past.ids[same] == ids->ids[same])
        same++;
    lm_session_rewind(g->l.session, same);
    g->past.n = same;
    g->n_read = ids->n - same;
    double t0 = cli_now();
    int code = feed(g, ids->ids + same, ids->n - same, e);
    g->prompt_seconds = cli_now() - t0;
    return code;
}

/* Makes room: keeps the first tokens and the newer half of the others. */
static int shift(struct generation *g, struct lm_err *e)
{
    size_t n = g->past.n, sinks = n > 2 * SINKS ? SINKS : 0, keep = (n - sinks) / 2;
    int32_t *ids = malloc((sinks + keep) * sizeof *ids);
    int code;

    if (!ids)
        return lm_err_set(e, LM_NOMEM, "no memory to shift the context");
    memcpy(ids, g->past.ids, sinks * sizeof *ids);
    memcpy(ids + sinks, g->past.ids + n - keep, keep * sizeof *ids);
    lm_session_rewind(g->l.session, 0);
    g->past.n = 0;
    code = feed(g, ids, sinks + keep, e);
    free(ids);
    return code;
}

/* ---- going on */

/* Bytes of the character that begins s; 0: none does. */
static size_t char_bytes(struct lm_span s)
{
    for (size_t n = 1; n <= 4 && n <= s.size; n++)
        if (lm_utf8_valid(lm_span_of(s.data, n)))
            return n;
    return 0;
}

/* A model may give bytes that are no text: each becomes U+FFFD, as in Hugging Face's decoders. to: room for 3 n. */
static size_t copy_as_text(char *to, struct lm_span s)
{
    size_t n = 0, k;

    for (; s.size > 0; s = lm_span_of(s.data + k, s.size - k)) {
        size_t whole = char_bytes(s);
        k = whole ? whole : 1;
        memcpy(to + n, whole ? (const char *)s.data : "\xef\xbf\xbd", whole ? whole : 3);
        n += whole ? whole : 3;
    }
    return n;
}

static int keep_text(struct generation *g, int32_t id, struct lm_err *e)
{
    if (id >= 0 && (size_t)id >= g->l.vocab->n_pieces)
        return 0; /* rows that pad the embedding have no text */
    size_t n = lm_decoder_push(&g->decoder, id, g->piece, g->piece_size);
    if (g->n_said + 3 * n + 1 > g->said_capacity) {
        size_t capacity = 2 * g->said_capacity + 3 * n + 256;
        char *grown = realloc(g->said, capacity);
        if (!grown)
            return lm_err_set(e, LM_NOMEM, "no memory for the text");
        g->said = grown;
        g->said_capacity = capacity;
    }
    g->n_said += copy_as_text(g->said + g->n_said, lm_span_of(g->piece, n));
    g->said[g->n_said] = 0;
    return 0;
}

/* Where in what was said since byte `from` a stop text begins; n_said if none does. */
static size_t stop_at(const struct generation *g, size_t from)
{
    size_t first = g->n_said;

    for (size_t i = 0; i < g->o.stops.n; i++) {
        size_t n = strlen(g->o.stops.items[i]), back = from > n ? from - n : 0;
        const char *p = n ? memmem(g->said + back, g->n_said - back, g->o.stops.items[i], n) : NULL;
        if (p && (size_t)(p - g->said) < first)
            first = (size_t)(p - g->said);
    }
    return first;
}

/* One more token into the text. 1: this is where it ends. */
static int take(struct generation *g, int32_t id, struct lm_err *e)
{
    size_t before = g->n_said, stop;

    if (generate_ids_add(&g->out, id, e) != 0 || keep_text(g, id, e) != 0)
        return -1;
    stop = stop_at(g, before);
    if (stop < g->n_said) {
        g->n_said = stop;
        g->stopped = "stop";
    }
    int closed = generate_token_out(g, id, e);
    return closed != 0 ? closed : strcmp(g->stopped, "stop") == 0;
}

static int choose(struct generation *g, int32_t *id, struct lm_err *e)
{
    uint32_t vocab = lm_engine_config(g->l.engine)->vocab_size;

    if (lm_penalize(&g->penalties, g->past.ids, g->past.n, g->logits, vocab, e) != 0)
        return -1;
    *id = lm_sample(&g->sampling, g->logits, vocab);
    return 0;
}

/* The logits after id. 1: the context is full. */
static int next_logits(struct generation *g, int32_t id, struct lm_err *e)
{
    if (lm_session_n_past(g->l.session) >= lm_engine_ctx_len(g->l.engine)) {
        if (!g->o.shift) {
            g->stopped = "context";
            return 1;
        }
        if (shift(g, e) != 0)
            return -1;
    }
    return feed(g, &id, 1, e);
}

static int generate(struct generation *g, struct lm_err *e)
{
    for (int i = 0; g->o.n < 0 || i < g->o.n; i++) {
        if (cli_stop) {
            g->stopped = "interrupted";
            return 0;
        }
        int32_t id;
        if (choose(g, &id, e) != 0)
            return -1;
        if (is_end(g, id)) {
            g->stopped = "eos";
            return 0;
        }
        int done = take(g, id, e);
        if (done == 0 && i + 1 != g->o.n)
            done = next_logits(g, id, e);
        if (done < 0 && e->code == LM_INTERRUPTED) {
            g->stopped = "interrupted";
            return 0;
        }
        if (done != 0)
            return done < 0 ? -1 : 0;
    }
    return 0;
}

int generate_go_on(struct generation *g, struct lm_err *e)
{
    double t0 = cli_now();

    g->out.n = g->n_said = g->n_shown = 0;
    g->stopped = "length";
    if (generate(g, e) != 0 || (strcmp(g->stopped, "stop") != 0 && keep_text(g, -1, e) != 0))
        return -1;
    g->seconds = cli_now() - t0;
    return generate_end_out(g, e);
}
