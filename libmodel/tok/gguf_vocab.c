/* Vocabularies in GGUF metadata (tokenizer.ggml.*), read and written.
 *   model "llama": tokens, scores, token_type        -> LM_VOCAB_SPM_BPE
 *   model "gpt2":  tokens, token_type, merges, pre   -> LM_VOCAB_BYTE_BPE
 * Counts and element types are checked against each other before use: files
 * with short or one-byte score arrays have crashed others.
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/pretok.h"

#define KEY "tokenizer.ggml."

static const struct special_key {
    const char *key;
    size_t offset; /* of the id in struct lm_vocab */
} special_keys[] = {
    {KEY "bos_token_id", offsetof(struct lm_vocab, bos_id)},
    {KEY "eos_token_id", offsetof(struct lm_vocab, eos_id)},
    {KEY "unknown_token_id", offsetof(struct lm_vocab, unk_id)},
    {KEY "padding_token_id", offsetof(struct lm_vocab, pad_id)},
};
enum { N_SPECIAL = sizeof special_keys / sizeof *special_keys };

static int64_t *special_id(struct lm_vocab *v, size_t i)
{
    return (int64_t *)((char *)v + special_keys[i].offset);
}

/* Same length as tokens, or absent. */
static int parallel_array(const struct lm_meta *m, const char *key, enum lm_meta_type elem, size_t n,
                          const struct lm_meta_value **out, struct lm_err *e)
{
    int rc = lm_meta_get_array(m, key, elem, out, e);

    if (rc == 1 && (*out)->n != n)
        return lm_err_set(e, LM_MALFORMED, "%s has %zu elements, but there are %zu tokens", key, (*out)->n, n);
    return rc;
}

static int read_kinds(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    const struct lm_meta_value *types = NULL;

    if (parallel_array(m, KEY "token_type", LM_META_I32, b->v.n_pieces, &types, e) < 0)
        return -1;
    for (size_t i = 0; i < b->v.n_pieces && types; i++) {
        int32_t kind = ((const int32_t *)types->data)[i];
        if (kind < 0 || kind > LM_PIECE_BYTE)
            return lm_err_set(e, LM_MALFORMED, KEY "token_type[%zu] is %d, expected 1 to 6", i, kind);
        b->pieces[i].kind = kind == 0 ? LM_PIECE_NORMAL : (enum lm_piece_kind)kind;
    }
    for (size_t i = 0; i < b->v.n_pieces; i++) {
        struct lm_piece *p = &b->pieces[i];
        bool byte_bpe = b->v.algo == LM_VOCAB_BYTE_BPE;
        p->special = p->kind == LM_PIECE_CONTROL;
        p->added = byte_bpe && (p->kind == LM_PIECE_CONTROL || p->kind == LM_PIECE_USER_DEFINED);
        p->in_model = !p->added;
    }
    return 0;
}

static int read_tokens(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    const struct lm_meta_value *tokens;
    int rc = lm_meta_get_array(m, KEY "tokens", LM_META_STR, &tokens, e);

    if (rc < 0)
        return -1;
    if (rc == 0)
        return lm_err_set(e, LM_MALFORMED, "metadata key " KEY "tokens is missing");
    for (size_t i = 0; i < tokens->n; i++) {
        struct lm_piece *p = lmi_vocab_piece(b, i);
        if (!p)
            return lmi_nomem_vocab(e);
        *p = (struct lm_piece){.text = lmi_vocab_copy(b, tokens->strs[i]), .kind = LM_PIECE_NORMAL};
        if (!p->text.data)
            return lmi_nomem_vocab(e);
    }
    return read_kinds(b, m, e);
}

static int read_special(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    for (size_t i = 0; i < N_SPECIAL; i++) {
        uint64_t id = UINT64_MAX;
        if (lm_meta_get_u64(m, special_keys[i].key, &id, e) < 0)
            return -1;
        if (id == UINT64_MAX)
            continue; /* keeps the default of its kind */
        if (id >= b->v.n_pieces && id != UINT32_MAX)
            return lm_err_set(e, LM_MALFORMED, "%s is %llu, but there are %zu tokens", special_keys[i].key,
                              (unsigned long long)id, b->v.n_pieces);
        *special_id(&b->v, i) = id == UINT32_MAX ? -1 : (int64_t)id;
    }
    if (lm_meta_get_bool(m, KEY "add_bos_token", &b->v.add_bos, e) < 0 ||
        lm_meta_get_bool(m, KEY "add_eos_token", &b->v.add_eos, e) < 0)
        return -1;
    struct lm_span chat = {0};
    if (lm_meta_get_str(m, "tokenizer.chat_template", &chat, e) < 0)
        return -1;
    b->v.chat_template = lmi_vocab_copy(b, chat);
    return b->v.chat_template.data ? 0 : lmi_nomem_vocab(e);
}

/* ---- llama */

static int read_scores(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    const struct lm_meta_value *scores;
    int rc = parallel_array(m, KEY "scores", LM_META_F32, b->v.n_pieces, &scores, e);

    if (rc < 0)
        return -1;
    if (rc == 0)
        return lm_err_set(e, LM_MALFORMED, "metadata key " KEY "scores is missing: a \"llama\" vocabulary cannot be "
                                           "used without it");
    for (size_t i = 0; i < b->v.n_pieces; i++)
        b->pieces[i].score = ((const float *)scores->data)[i];
    return 0;
}

static int read_charsmap(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    const struct lm_meta_value *v = lm_meta_get(m, KEY "precompiled_charsmap");

    if (!v)
        return 0;
    if (v->type != LM_META_ARRAY || (v->elem != LM_META_U8 && v->elem != LM_META_I8))
        return lm_err_set(e, LM_MALFORMED, KEY "precompiled_charsmap is no array of bytes");
    b->v.charsmap = lmi_vocab_copy(b, lm_span_of(v->data, v->n));
    return b->v.charsmap.data ? 0 : lmi_nomem_vocab(e);
}

static int64_t id_or_none(const struct lmi_vocab *b, int64_t id, enum lm_piece_kind kind)
{
    return (uint64_t)id < b->v.n_pieces && b->pieces[id].kind == kind ? id : -1;
}

static int read_llama(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    struct lm_vocab *v = &b->v;
    bool seen[256] = {false};
    size_t n_bytes = 0;

    /* What the keys mean when they are absent (llama.cpp's defaults). */
    v->bos_id = id_or_none(b, 1, LM_PIECE_CONTROL);
    v->eos_id = id_or_none(b, 2, LM_PIECE_CONTROL);
    v->unk_id = id_or_none(b, 0, LM_PIECE_UNKNOWN);
    v->add_bos = v->add_dummy_prefix = v->escape_whitespaces = v->prefix_every_part = v->fuse_unk = true;
    if (read_scores(b, m, e) < 0 || read_charsmap(b, m, e) < 0 ||
        lm_meta_get_bool(m, KEY "add_space_prefix", &v->add_dummy_prefix, e) < 0 ||
        lm_meta_get_bool(m, KEY "remove_extra_whitespaces", &v->remove_extra_whitespaces, e) < 0)
        return -1;
    for (size_t i = 0; i < v->n_pieces; i++) {
        int byte = b->pieces[i].kind == LM_PIECE_BYTE ? lmi_byte_piece(b->pieces[i].text) : -1;
        n_bytes += byte >= 0 && !seen[byte];
        seen[byte >= 0 ? byte : 0] |= byte >= 0;
    }
    v->byte_fallback = n_bytes == 256;
    return 0;
}

/* ---- gpt2 */

static int read_merges(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    const struct lm_meta_value *list;
    int rc = lm_meta_get_array(m, KEY "merges", LM_META_STR, &list, e);

    if (rc <= 0)
        return rc < 0 ? -1 : lm_err_set(e, LM_MALFORMED, "metadata key " KEY "merges is missing");
    b->merges = calloc(list->n + 1, sizeof *b->merges);
    if (!b->merges)
        return lmi_nomem_vocab(e);
    for (size_t i = 0; i < list->n; i++) {
        struct lm_span s = list->strs[i];
        const uint8_t *space = s.size > 1 ? memchr(s.data + 1, ' ', s.size - 1) : NULL;
        if (!space)
            return lm_err_set(e, LM_MALFORMED, KEY "merges[%zu] has no space between its halves", i);
        size_t left = (size_t)(space - s.data);
        if (lmi_vocab_merge(b, i, lm_span_of(s.data, left), lm_span_of(space + 1, s.size - left - 1), e) < 0)
            return -1;
        b->v.n_merges = i + 1;
    }
    return 0;
}

static int read_gpt2(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    struct lm_span name = lm_span_str("default");

    if (lm_meta_get_str(m, KEY "pre", &name, e) < 0)
        return -1;
    const struct lmi_pre_name *pre = lmi_pre_find(name);
    if (!pre)
        return lm_err_set(e, LM_UNSUPPORTED, "the pre-tokenizer '%.*s' (" KEY "pre) is not handled",
                          (int)(name.size < 80 ? name.size : 80), (const char *)name.data);
    b->v.pre = pre->name;
    b->v.pre_pattern = lmi_pre_pattern(&b->arena, pre);
    if (!b->v.pre_pattern.data)
        return lmi_nomem_vocab(e);
    b->v.ignore_merges = pre->ignore_merges;
    b->v.add_bos = pre->add_bos;
    if (lm_meta_get_bool(m, KEY "add_space_prefix", &b->v.add_prefix_space, e) < 0)
        return -1;
    return lmi_vocab_index(b, e) < 0 ? -1 : read_merges(b, m, e);
}

int lmi_gguf_vocab_read(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    struct lm_span model = {0};
    int rc = lm_meta_get_str(m, KEY "model", &model, e);

    if (rc <= 0 || lm_span_eq(model, lm_span_str("none")) || lm_span_eq(model, lm_span_str("no_vocab")))
        return rc < 0 ? -1 : 0;
    bool llama = lm_span_eq(model, lm_span_str("llama"));
    if (!llama && !lm_span_eq(model, lm_span_str("gpt2")))
        return lm_err_set(e, LM_UNSUPPORTED, "the tokenizer '%.*s' (" KEY "model) is not handled; \"llama\" and "
                                             "\"gpt2\" are", (int)(model.size < 80 ? model.size : 80),
                          (const char *)model.data);
    b->v.algo = llama ? LM_VOCAB_SPM_BPE : LM_VOCAB_BYTE_BPE;
    b->v.source = "GGUF";
    if (read_tokens(b, m, e) < 0 || (llama ? read_llama(b, m, e) : read_gpt2(b, m, e)) < 0 ||
        read_special(b, m, e) < 0)
        return -1;
    return 1;
}

/* ---- writer */

static int nomem_meta(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory while writing a vocabulary");
}

/* llama.cpp looks for added tokens in the raw text, so theirs holds spaces. */
static struct lm_span text_for_gguf(struct lm_arena *a, const struct lm_vocab *v, const struct lm_piece *p)
{
    if (v->algo != LM_VOCAB_SPM_BPE || p->kind != LM_PIECE_USER_DEFINED || !p->added)
        return p->text;
    uint8_t *out = lm_arena_alloc(a, p->text.size + 1);
    size_t n = 0;
    for (size_t i = 0; out && i < p->text.size;) {
        bool mark = p->text.size - i >= 3 && memcmp(p->text.data + i, LMI_SPACE_MARK, 3) == 0;
        out[n++] = mark ? ' ' : p->text.data[i];
        i += mark ? 3 : 1;
    }
    return lm_span_of(out, n);
}

struct columns {
    struct lm_span *texts;
    float *scores;
    int32_t *kinds;
};

static int fill_columns(struct columns *c, struct lm_arena *a, const struct lm_vocab *v, size_t n, struct lm_err *e)
{
    c->texts = lm_arena_array(a, n, sizeof *c->texts);
    c->scores = lm_arena_array(a, n, sizeof *c->scores);
    c->kinds = lm_arena_array(a, n, sizeof *c->kinds);
    if (!c->texts || !c->scores || !c->kinds)
        return nomem_meta(e);
    for (size_t i = 0; i < n; i++) {
        char pad[40];
        snprintf(pad, sizeof pad, "[PAD%zu]", i);
        c->texts[i] = i < v->n_pieces ? text_for_gguf(a, v, &v->pieces[i])
                                      : lm_span_str(lm_arena_str(a, lm_span_str(pad)));
        c->scores[i] = i < v->n_pieces ? v->pieces[i].score : -1000;
        c->kinds[i] = i < v->n_pieces ? (int32_t)v->pieces[i].kind : LM_PIECE_UNUSED;
        if (!c->texts[i].data)
            return nomem_meta(e);
    }
    return 0;
}

/* Loaders look ids up by text and refuse a file where two are the same. */
static int check_distinct(const struct columns *c, size_t n, struct lm_err *e)
{
    struct lmi_texts seen;
    int rc = 0;

    if (!lmi_texts_init(&seen, n))
        return nomem_meta(e);
    for (size_t i = 0; i < n && rc == 0; i++)
        if (!lmi_texts_put(&seen, c->texts[i], (uint32_t)i))
            rc = lm_err_set(e, LM_UNSUPPORTED, "pieces %u and %zu have the same text '%.*s'; GGUF cannot hold both",
                            lmi_texts_get(&seen, c->texts[i]), i,
                            (int)(c->texts[i].size < 80 ? c->texts[i].size : 80), (const char *)c->texts[i].data);
    lmi_texts_free(&seen);
    return rc;
}

static struct lm_span merge_text(struct lm_arena *a, const struct lm_vocab *v, const struct lm_merge *m)
{
    struct lm_span l = v->pieces[m->left].text, r = v->pieces[m->right].text;
    uint8_t *out = lm_arena_alloc(a, l.size + r.size + 1);

    if (!out)
        return (struct lm_span){NULL, 0};
    memcpy(out, l.data, l.size);
    out[l.size] = ' ';
    memcpy(out + l.size + 1, r.data, r.size);
    return lm_span_of(out, l.size + r.size + 1);
}

static int write_merges(struct lm_meta *m, struct lm_arena *a, const struct lm_vocab *v, struct lm_err *e)
{
    struct lm_span *texts = lm_arena_array(a, v->n_merges, sizeof *texts);

    if (!texts)
        return nomem_meta(e);
    for (size_t i = 0; i < v->n_merges; i++) {
        texts[i] = merge_text(a, v, &v->merges[i]);
        if (!texts[i].data)
            return nomem_meta(e);
    }
    return lm_meta_set_strs(m, KEY "merges", texts, v->n_merges) < 0 ? nomem_meta(e) : 0;
}

static int write_special(struct lm_meta *m, const struct lm_vocab *v, struct lm_err *e)
{
    struct lm_vocab copy = *v;
    bool spm = v->algo == LM_VOCAB_SPM_BPE, bad = false;

    for (size_t i = 0; i < N_SPECIAL; i++) {
        int64_t id = *special_id(&copy, i);
        /* An absent key means 1, 2 or 0 to a reader of "llama" vocabularies. */
        if (id >= 0)
            bad |= lm_meta_set_u32(m, special_keys[i].key, (uint32_t)id) < 0;
    }
    bad |= lm_meta_set_bool(m, KEY "add_bos_token", v->add_bos && v->bos_id >= 0) < 0;
    bad |= lm_meta_set_bool(m, KEY "add_eos_token", v->add_eos && v->eos_id >= 0) < 0;
    bad |= lm_meta_set_bool(m, KEY "add_space_prefix", (spm && v->add_dummy_prefix) || v->add_prefix_space) < 0;
    if (spm && v->remove_extra_whitespaces)
        bad |= lm_meta_set_bool(m, KEY "remove_extra_whitespaces", true) < 0;
    if (v->charsmap.size)
        bad |= lm_meta_set_array(m, KEY "precompiled_charsmap", LM_META_U8, v->charsmap.data, v->charsmap.size) < 0;
    if (v->chat_template.size)
        bad |= lm_meta_set_str(m, "tokenizer.chat_template", v->chat_template) < 0;
    return bad ? nomem_meta(e) : 0;
}

static int write_all(struct lm_meta *m, struct lm_arena *a, const struct lm_vocab *v, size_t n, struct lm_err *e)
{
    bool spm = v->algo == LM_VOCAB_SPM_BPE, bad = false;
    struct columns c;

    if (fill_columns(&c, a, v, n, e) < 0 || check_distinct(&c, n, e) < 0)
        return -1;
    bad |= lm_meta_set_str(m, KEY "model", lm_span_str(spm ? "llama" : "gpt2")) < 0;
    bad |= lm_meta_set_str(m, KEY "pre", lm_span_str(spm ? "default" : v->pre)) < 0;
    bad |= lm_meta_set_strs(m, KEY "tokens", c.texts, n) < 0;
    if (spm)
        bad |= lm_meta_set_array(m, KEY "scores", LM_META_F32, c.scores, n) < 0;
    bad |= lm_meta_set_array(m, KEY "token_type", LM_META_I32, c.kinds, n) < 0;
    if (bad)
        return nomem_meta(e);
    if (!spm && write_merges(m, a, v, e) < 0)
        return -1;
    return write_special(m, v, e);
}

int lm_vocab_to_meta(struct lm_meta *m, const struct lm_vocab *v, uint64_t vocab_size, struct lm_err *e)
{
    size_t n = vocab_size > v->n_pieces ? (size_t)vocab_size : v->n_pieces;
    struct lm_arena a = {0};

    if (vocab_size > INT32_MAX)
        return lm_err_set(e, LM_LIMIT, "the embedding has %llu rows, at most %d are handled",
                          (unsigned long long)vocab_size, INT32_MAX);
    if (v->algo == LM_VOCAB_BYTE_BPE && v->pre[0] == '\0')
        return lm_err_set(e, LM_UNSUPPORTED, "the pre-tokenizer of this vocabulary (%.*s) has no name in GGUF",
                          (int)(v->pre_pattern.size < 300 ? v->pre_pattern.size : 300),
                          (const char *)v->pre_pattern.data);
    int rc = write_all(m, &a, v, n, e);
    lm_arena_free(&a);
    return rc;
}
