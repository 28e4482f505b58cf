/* Mistral's tekken.json: {"config": {"pattern", "default_vocab_size", "default_num_special_tokens", "version", …},
 * "vocab": [{"rank", "token_bytes" (base64), "token_str"}, …], "special_tokens": [{"rank", "token_str", …}] or null, …}.
 * The ids of special tokens come first; of the vocabulary only as many entries count as are left of
 * default_vocab_size. https://github.com/mistralai/mistral-common */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/parse/pull.h"
#include "libmodel/tok/base64.h"
#include "libmodel/tok/ranks.h"

struct tekken {
    struct lmi_pull p;
    struct lm_arena scratch;
    struct lm_span config, specials; /* as they stand in the file */
    struct lmi_ranks ranks;
    bool has_vocab;
};

static int bad_entry(struct tekken *t, const char *what)
{
    return lm_err_set(t->p.e, LM_MALFORMED, "vocab[%zu] %s", t->ranks.n, what);
}

static int read_entry(struct tekken *t)
{
    struct lm_span key, text = {0};
    uint64_t rank = UINT64_MAX;
    size_t n = 0;
    int rc;

    if (lmi_pull_peek(&t->p) != '{')
        return bad_entry(t, "is no object");
    while ((rc = lmi_pull_member(&t->p, &n, &key)) > 0) {
        if (lm_span_eq(key, lm_span_str("rank")))
            rc = lmi_pull_u64(&t->p, &rank);
        else if (lm_span_eq(key, lm_span_str("token_bytes")))
            rc = lmi_pull_string(&t->p, &text);
        else
            rc = lmi_pull_skip(&t->p);
        if (rc < 0)
            return -1;
    }
    if (rc < 0 || !text.data || rank != t->ranks.n)
        return rc < 0 ? -1 : bad_entry(t, "has no token_bytes or another rank than its place");
    uint8_t *bytes = lm_arena_alloc(&t->scratch, lmi_base64_room(text.size));
    if (!bytes)
        return lmi_nomem_vocab(t->p.e);
    int64_t size = lmi_base64_decode(text, bytes);
    return size < 0 ? bad_entry(t, "is no base64") : lmi_ranks_put(&t->ranks, lm_span_of(bytes, (size_t)size), rank, t->p.e);
}

static int read_vocab(struct tekken *t)
{
    size_t n = 0;
    int rc;

    if (t->has_vocab)
        return lm_err_set(t->p.e, LM_MALFORMED, "vocab occurs twice");
    t->has_vocab = true;
    if (lmi_pull_peek(&t->p) != '[')
        return lm_err_set(t->p.e, LM_MALFORMED, "vocab is no array");
    while ((rc = lmi_pull_element(&t->p, &n)) > 0)
        if (read_entry(t) < 0)
            return -1;
    return rc;
}

static int keep_text(struct tekken *t, struct lm_span *out)
{
    lmi_pull_peek(&t->p);
    size_t begin = t->p.pos;
    if (lmi_pull_skip(&t->p) < 0)
        return -1;
    *out = lm_span_of(t->p.text.data + begin, t->p.pos - begin);
    return 0;
}

static int read_root(struct tekken *t)
{
    struct lm_span key;
    size_t n = 0;
    int rc;

    while ((rc = lmi_pull_member(&t->p, &n, &key)) > 0) {
        if (lm_span_eq(key, lm_span_str("vocab")))
            rc = read_vocab(t);
        else if (lm_span_eq(key, lm_span_str("config")))
            rc = keep_text(t, &t->config);
        else if (lm_span_eq(key, lm_span_str("special_tokens")))
            rc = keep_text(t, &t->specials);
        else
            rc = lmi_pull_skip(&t->p);
        if (rc < 0)
            return -1;
    }
    return rc < 0 ? -1 : lmi_pull_end(&t->p);
}

/* ---- special tokens */

/* What files without a list of their own mean. */
static const char *const first_specials[] = {
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"};

static int listed_specials(struct lmi_vocab *b, const json_t *list, size_t limit, struct lm_err *e)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i), *rank = json_object_get(item, "rank");
        struct lm_span text = lm_json_span(json_object_get(item, "token_str"));
        json_int_t id = json_is_integer(rank) ? json_integer_value(rank) : -1;
        if (id < 0 || (size_t)id >= limit || text.size == 0)
            return lm_err_set(e, LM_MALFORMED, "special_tokens[%zu] has no text or no rank below %zu", i, limit);
        if (lmi_ranks_special(b, (size_t)id, text, e) < 0)
            return -1;
    }
    return 0;
}

static int read_specials(struct lmi_vocab *b, const struct tekken *t, size_t n, struct lm_err *e)
{
    json_t *list = t->specials.size && t->specials.data[0] == '[' ? lm_json_parse(t->specials, "special_tokens", e) : NULL;
    int rc = 0;

    if (t->specials.size && t->specials.data[0] == '[' && !list)
        return -1;
    if (list)
        rc = listed_specials(b, list, n, e);
    for (size_t i = 0; i < sizeof first_specials / sizeof *first_specials && !list && i < n && rc == 0; i++)
        rc = lmi_ranks_special(b, i, lm_span_str(first_specials[i]), e);
    json_decref(list);
    for (size_t i = 0; i < n && rc == 0; i++) {
        char text[40];
        snprintf(text, sizeof text, "<SPECIAL_%zu>", i);
        if (i >= b->v.n_pieces || !b->pieces[i].text.data)
            rc = lmi_ranks_special(b, i, lm_span_str(text), e);
    }
    return rc;
}

static void name_ids(struct lmi_vocab *b)
{
    static const struct {
        const char *text;
        size_t offset;
    } roles[] = {{"<s>", offsetof(struct lm_vocab, bos_id)},
                 {"</s>", offsetof(struct lm_vocab, eos_id)},
                 {"<pad>", offsetof(struct lm_vocab, pad_id)}};

    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        uint32_t id = lmi_texts_get(&b->texts, lm_span_str(roles[i].text));
        if (id != LMI_NONE)
            *(int64_t *)((char *)&b->v + roles[i].offset) = id;
    }
    b->v.add_bos = b->v.bos_id >= 0;
}

static int use(struct lmi_vocab *b, struct tekken *t, const json_t *config, struct lm_err *e)
{
    const json_t *size = json_object_get(config, "default_vocab_size");
    const json_t *special = json_object_get(config, "default_num_special_tokens");
    json_int_t total = json_is_integer(size) ? json_integer_value(size) : -1;
    json_int_t n = json_is_integer(special) ? json_integer_value(special) : -1;
    struct lm_span pattern = lm_json_span(json_object_get(config, "pattern"));

    if (!pattern.size || n < 0 || total <= n || (uint64_t)(total - n) > t->ranks.n)
        return lm_err_set(e, LM_MALFORMED, "config: %lld ids with %lld special ones, %zu in vocab, pattern of %zu bytes: "
                                           "they do not fit together", (long long)total, (long long)n, t->ranks.n, pattern.size);
    if ((uint64_t)n > 2 * (uint64_t)t->ranks.n + 4096)
        return lm_err_set(e, LM_LIMIT, "config: %lld special tokens", (long long)n);
    t->ranks.n = (size_t)(total - n);
    if (read_specials(b, t, (size_t)n, e) < 0 || lmi_ranks_to_vocab(b, &t->ranks, (size_t)n, e) < 0)
        return -1;
    name_ids(b);
    return lmi_ranks_pattern(b, pattern, e);
}

int lmi_tekken_read(struct lmi_vocab *b, struct lm_span file, struct lm_err *e)
{
    struct tekken t = {0};
    json_t *config = NULL;
    int rc = lmi_pull_begin(&t.p, file, &t.scratch, e);

    b->v.source = "tekken.json";
    if (rc == 0)
        rc = read_root(&t);
    if (rc == 0 && !t.config.size)
        rc = lm_err_set(e, LM_MALFORMED, "there is no 'config'");
    if (rc == 0)
        rc = (config = lm_json_parse(t.config, "config", e)) ? 0 : -1;
    if (rc == 0)
        rc = use(b, &t, config, e);
    json_decref(config);
    lmi_ranks_free(&t.ranks);
    lm_arena_free(&t.scratch);
    return rc < 0 ? lm_err_prefix(e, "tekken.json") : 0;
}
