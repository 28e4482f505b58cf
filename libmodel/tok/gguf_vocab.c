/* Vocabularies in GGUF metadata (tokenizer.ggml.*), read and written.
 *   model "llama": tokens, scores, token_type        -> LM_VOCAB_SPM_BPE
 *   model "gpt2":  tokens, token_type, merges, pre   -> LM_VOCAB_BYTE_BPE
 *   model "t5":    as "llama", precompiled_charsmap  -> LM_VOCAB_UNIGRAM
 *   model "bert":  tokens, token_type, normalizer.*  -> LM_VOCAB_WORDPIECE
 *   model "rwkv":  tokens, token_type                -> LM_VOCAB_GREEDY
 * Counts and element types are checked against each other before use: files
 * with short or one-byte score arrays have crashed others.
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/tok/bert.h"
#include "libmodel/tok/build.h"
#include "libmodel/tok/pipeline.h"
#include "libmodel/tok/ranks.h"

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
        return lm_err_set(e, LM_MALFORMED, "metadata key " KEY "scores is missing: a SentencePiece vocabulary cannot "
                                           "be used without it");
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

static int read_spm(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    struct lm_vocab *v = &b->v;
    bool seen[256] = {false};
    size_t n_bytes = 0;

    v->add_dummy_prefix = v->escape_whitespaces = v->prefix_every_part = v->fuse_unk = b->spaced = true;
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

/* What the keys mean when they are absent: llama.cpp's defaults. */
static int read_llama(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    b->v.bos_id = id_or_none(b, 1, LM_PIECE_CONTROL);
    b->v.eos_id = id_or_none(b, 2, LM_PIECE_CONTROL);
    b->v.unk_id = id_or_none(b, 0, LM_PIECE_UNKNOWN);
    b->v.add_bos = true;
    return read_spm(b, m, e);
}

/* ---- t5: the pieces of the SentencePiece model, whose unknown piece is marked */

static int read_t5(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    for (size_t i = b->v.n_pieces; i-- > 0;)
        if (b->pieces[i].kind == LM_PIECE_UNKNOWN)
            b->v.unk_id = (int64_t)i;
    b->v.eos_id = id_or_none(b, 1, LM_PIECE_CONTROL);
    b->v.pad_id = id_or_none(b, 0, LM_PIECE_CONTROL);
    b->v.add_eos = true;
    return read_spm(b, m, e);
}

/* ---- bert */

static const struct special_key bert_keys[] = {
    {KEY "cls_token_id", offsetof(struct lm_vocab, bos_id)},
    {KEY "seperator_token_id", offsetof(struct lm_vocab, eos_id)}, /* so spelled */
};

static int64_t find_or_none(const struct lmi_vocab *b, const char *text)
{
    uint32_t id = lmi_texts_get(&b->texts, lm_span_str(text));

    return id == LMI_NONE ? -1 : (int64_t)id;
}

/* BOS and EOS are what opens and closes a text: [CLS] and [SEP]. */
static int read_bert_ids(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    b->v.bos_id = find_or_none(b, "[CLS]");
    b->v.eos_id = find_or_none(b, "[SEP]");
    b->v.unk_id = find_or_none(b, "[UNK]");
    b->v.pad_id = find_or_none(b, "[PAD]");
    for (size_t i = 0; i < sizeof bert_keys / sizeof *bert_keys; i++) {
        uint64_t id = UINT64_MAX;
        if (lm_meta_get_u64(m, bert_keys[i].key, &id, e) < 0)
            return -1;
        if (id != UINT64_MAX && id >= b->v.n_pieces)
            return lm_err_set(e, LM_MALFORMED, "%s is %llu, but there are %zu tokens", bert_keys[i].key,
                              (unsigned long long)id, b->v.n_pieces);
        if (id != UINT64_MAX)
            *(int64_t *)((char *)&b->v + bert_keys[i].offset) = (int64_t)id;
    }
    return 0;
}

static void mark_bert_special(struct lmi_vocab *b)
{
    const int64_t ids[] = {b->v.unk_id, b->v.bos_id, b->v.eos_id, b->v.pad_id, find_or_none(b, "[MASK]")};

    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        if (ids[i] < 0)
            continue;
        b->pieces[ids[i]].kind = i == 0 ? LM_PIECE_UNKNOWN : LM_PIECE_CONTROL;
        b->pieces[ids[i]].special = b->pieces[ids[i]].added = true;
    }
    for (size_t i = 0; i < b->v.n_pieces; i++)
        b->pieces[i].added |= b->pieces[i].kind == LM_PIECE_USER_DEFINED;
}

static int read_bert(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    bool lowercase = true, strip = true;

    if (lmi_bert_from_gguf(b, e) < 0 || lmi_vocab_index(b, e) < 0 || read_bert_ids(b, m, e) < 0 ||
        lm_meta_get_bool(m, KEY "normalizer.lowercase", &lowercase, e) < 0)
        return -1;
    strip = lowercase;
    if (lm_meta_get_bool(m, KEY "normalizer.strip_accents", &strip, e) < 0)
        return -1;
    mark_bert_special(b);
    return lmi_bert_stages(b, (struct lmi_bert_flags){lowercase, true, true, strip == lowercase ? -1 : strip}, e);
}

/* ---- rwkv */

static int read_rwkv(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    (void)m;
    return lmi_rwkv_from_gguf(b, e);
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

/* Files of this kind may leave the list out: the ids are the ranks. */
static int merges_from_ids(struct lmi_vocab *b, struct lm_err *e)
{
    struct lmi_ranks r = {0};
    struct lm_arena scratch = {0};
    int rc = 0;

    for (size_t i = 0; i < b->v.n_pieces && rc == 0; i++) {
        struct lm_span bytes = {0};
        if (!b->pieces[i].in_model || b->pieces[i].kind != LM_PIECE_NORMAL)
            continue;
        rc = lmi_piece_bytes(&scratch, b->pieces[i].text, &bytes, e);
        if (rc == 0)
            rc = lmi_ranks_put(&r, bytes, i, e);
    }
    if (rc == 0)
        rc = lmi_ranks_merges(b, &r, 0, e);
    lmi_ranks_free(&r);
    lm_arena_free(&scratch);
    return rc;
}

/* Gemma's later vocabularies: pieces as SentencePiece writes them, with merges. */
static int read_marked(struct lmi_vocab *b)
{
    size_t n_bytes = 0;

    b->v.algo = LM_VOCAB_SPM_BPE;
    b->ranked = b->v.escape_whitespaces = b->v.fuse_unk = true;
    for (size_t i = 0; i < b->v.n_pieces; i++) {
        if (lmi_byte_piece(b->pieces[i].text) >= 0 && b->pieces[i].kind != LM_PIECE_CONTROL) {
            b->pieces[i].kind = LM_PIECE_BYTE;
            n_bytes++;
        }
        if (b->pieces[i].kind == LM_PIECE_UNKNOWN)
            b->v.unk_id = (int64_t)i;
    }
    b->v.byte_fallback = n_bytes == 256;
    lmi_vocab_scores_from_merges(b);
    return 0;
}

/* Words are what stands between spaces, in the characters of the text. */
static int read_whitespace(struct lmi_vocab *b, struct lm_err *e)
{
    json_t *split = json_pack("{ss}", "type", "WhitespaceSplit"), *fuse = json_pack("{ss}", "type", "Fuse");
    struct lmi_stages s = {.pre_tokenizer = split, .decoder = fuse};

    b->v.algo = LM_VOCAB_BPE;
    b->staged = b->chained = true;
    int rc = split && fuse ? lmi_pipeline_read(b, &s, e) : lmi_nomem_vocab(e);
    b->v.pre_tokenizer = lm_span_str("{\"type\":\"WhitespaceSplit\"}");
    b->v.decoder = lm_span_str("{\"type\":\"Fuse\"}");
    json_decref(split);
    json_decref(fuse);
    return rc;
}

static int read_gpt2(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    struct lm_span name = lm_span_str("default"), model = {0};

    if (lm_meta_get_str(m, KEY "model", &model, e) < 0 || lm_meta_get_str(m, KEY "pre", &name, e) < 0)
        return -1;
    if (lm_span_eq(model, lm_span_str("gemma4")) || lm_span_eq(model, lm_span_str("whitespace")))
        name = model;
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
    if (lm_meta_get_bool(m, KEY "add_space_prefix", &b->v.add_prefix_space, e) < 0 || lmi_vocab_index(b, e) < 0)
        return -1;
    if (strcmp(pre->name, "kimi-k2") == 0 && !lm_meta_get(m, KEY "merges"))
        return merges_from_ids(b, e);
    if (read_merges(b, m, e) < 0)
        return -1;
    return pre->family == LMI_MARKED ? read_marked(b) : pre->family == LMI_WHITESPACE ? read_whitespace(b, e) : 0;
}

static const struct gguf_kind {
    const char *model;
    enum lm_vocab_algo algo;
    int (*read)(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e);
} kinds[] = {
    {"llama", LM_VOCAB_SPM_BPE, read_llama},   {"gpt2", LM_VOCAB_BYTE_BPE, read_gpt2},
    {"t5", LM_VOCAB_UNIGRAM, read_t5},         {"bert", LM_VOCAB_WORDPIECE, read_bert},
    {"rwkv", LM_VOCAB_GREEDY, read_rwkv},      {"gemma4", LM_VOCAB_BYTE_BPE, read_gpt2},
    {"whitespace", LM_VOCAB_BYTE_BPE, read_gpt2},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

int lmi_gguf_vocab_read(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e)
{
    struct lm_span model = {0};
    int rc = lm_meta_get_str(m, KEY "model", &model, e);

    if (rc <= 0 || lm_span_eq(model, lm_span_str("none")) || lm_span_eq(model, lm_span_str("no_vocab")))
        return rc < 0 ? -1 : 0;
    const struct gguf_kind *kind = NULL;
    for (size_t i = 0; i < N_KINDS && !kind; i++)
        if (lm_span_eq(model, lm_span_str(kinds[i].model)))
            kind = &kinds[i];
    if (!kind)
        return lm_err_set(e, LM_UNSUPPORTED, "the tokenizer '%.*s' (" KEY "model) is not handled; \"llama\", \"gpt2\", "
                                             "\"t5\", \"bert\", \"rwkv\", \"gemma4\" and \"whitespace\" are",
                          (int)(model.size < 80 ? model.size : 80), (const char *)model.data);
    b->v.algo = kind->algo;
    b->v.source = "GGUF";
    if (read_tokens(b, m, e) < 0 || kind->read(b, m, e) < 0 || read_special(b, m, e) < 0)
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
    if (v->algo == LM_VOCAB_WORDPIECE)
        return lmi_bert_to_gguf(a, v, p);
    if (v->algo == LM_VOCAB_GREEDY && p->kind == LM_PIECE_NORMAL)
        return lmi_rwkv_to_gguf(a, p->text);
    if (!lmi_is_spm(v) || p->kind != LM_PIECE_USER_DEFINED || !p->added)
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
    bool spm = lmi_is_spm(v), bad = false;

    for (size_t i = 0; i < N_SPECIAL; i++) {
        int64_t id = *special_id(&copy, i);
        /* An absent key means 1, 2 or 0 to a reader of "llama" vocabularies. */
        if (id >= 0)
            bad |= lm_meta_set_u32(m, special_keys[i].key, (uint32_t)id) < 0;
    }
    bad |= lm_meta_set_bool(m, KEY "add_bos_token", v->add_bos && v->bos_id >= 0 && v->n_prefix_ids <= 1) < 0;
    bad |= lm_meta_set_bool(m, KEY "add_eos_token", v->add_eos && v->eos_id >= 0 && v->n_suffix_ids <= 1) < 0;
    bad |= lm_meta_set_bool(m, KEY "add_space_prefix", (spm && v->add_dummy_prefix) || v->add_prefix_space) < 0;
    if (spm && (v->remove_extra_whitespaces || v->algo == LM_VOCAB_UNIGRAM))
        bad |= lm_meta_set_bool(m, KEY "remove_extra_whitespaces", v->remove_extra_whitespaces) < 0;
    if (v->charsmap.size)
        bad |= lm_meta_set_array(m, KEY "precompiled_charsmap", LM_META_U8, v->charsmap.data, v->charsmap.size) < 0;
    if (v->chat_template.size)
        bad |= lm_meta_set_str(m, "tokenizer.chat_template", v->chat_template) < 0;
    return bad ? nomem_meta(e) : 0;
}

static int write_bert(struct lm_meta *m, const struct lm_vocab *v, struct lm_err *e)
{
    struct lmi_bert_flags f;
    bool bad = false;

    if (!lmi_bert_flags_of(v, &f) || !f.chinese_chars || !f.clean_text ||
        !lm_span_eq(v->continuing_subword_prefix, lm_span_str("##")))
        return lm_err_set(e, LM_UNSUPPORTED, "GGUF holds WordPiece vocabularies with BertNormalizer (clean_text, "
                                             "handle_chinese_chars), BertPreTokenizer and \"##\" only");
    for (size_t i = 0; i < sizeof bert_keys / sizeof *bert_keys; i++) {
        struct lm_vocab copy = *v;
        int64_t id = *(int64_t *)((char *)&copy + bert_keys[i].offset);
        if (id >= 0)
            bad |= lm_meta_set_u32(m, bert_keys[i].key, (uint32_t)id) < 0;
    }
    bad |= lm_meta_set_bool(m, KEY "normalizer.lowercase", f.lowercase) < 0;
    bad |= lm_meta_set_bool(m, KEY "normalizer.strip_accents", f.strip_accents < 0 ? f.lowercase : f.strip_accents) < 0;
    return bad ? nomem_meta(e) : 0;
}

static const struct gguf_kind *kind_of(const struct lm_vocab *v)
{
    for (size_t i = 0; i < N_KINDS; i++)
        if (kinds[i].algo == v->algo)
            return &kinds[i];
    return NULL;
}

static int write_all(struct lm_meta *m, struct lm_arena *a, const struct lm_vocab *v, size_t n, struct lm_err *e)
{
    bool spm = lmi_is_spm(v), bytes = v->algo == LM_VOCAB_BYTE_BPE, bad = false;
    struct columns c;

    if (fill_columns(&c, a, v, n, e) < 0 || check_distinct(&c, n, e) < 0)
        return -1;
    bad |= lm_meta_set_str(m, KEY "model", lm_span_str(kind_of(v)->model)) < 0;
    bad |= lm_meta_set_str(m, KEY "pre", lm_span_str(bytes ? v->pre : "default")) < 0;
    bad |= lm_meta_set_strs(m, KEY "tokens", c.texts, n) < 0;
    if (spm)
        bad |= lm_meta_set_array(m, KEY "scores", LM_META_F32, c.scores, n) < 0;
    bad |= lm_meta_set_array(m, KEY "token_type", LM_META_I32, c.kinds, n) < 0;
    if (bad)
        return nomem_meta(e);
    if ((bytes && write_merges(m, a, v, e) < 0) || (v->algo == LM_VOCAB_WORDPIECE && write_bert(m, v, e) < 0))
        return -1;
    return write_special(m, v, e);
}

static int shown(struct lm_span s)
{
    return s.size == 0 ? 4 : s.size < 200 ? (int)s.size : 200;
}

/* Appends to a note; returns its full length. */
static size_t note(char *buf, size_t size, size_t n, const char *what)
{
    int k = snprintf(n < size ? buf + n : NULL, n < size ? size - n : 0, "%s%s", n ? "; " : "", what);

    return n + (k > 0 ? (size_t)k : 0);
}

size_t lm_vocab_gguf_note(const struct lm_vocab *v, char *buf, size_t size)
{
    bool spaces = false;
    size_t n = 0;

    for (size_t i = 0; i < v->n_pieces; i++)
        spaces |= v->pieces[i].lstrip || v->pieces[i].rstrip || v->pieces[i].single_word;
    if (size > 0)
        buf[0] = '\0';
    if (v->nfc)
        n = note(buf, size, n, "that text is normalized to NFC first");
    if (v->add_prefix_space && v->algo == LM_VOCAB_BYTE_BPE)
        n = note(buf, size, n, "that a space goes in front of a text (it can, but llama.cpp does not look)");
    if (v->n_prefix_ids + v->n_suffix_ids > 0)
        n = note(buf, size, n, "that more than one token goes in front of or behind a text");
    if (spaces)
        n = note(buf, size, n, "that added tokens take in the spaces around them or match whole words only");
    return n;
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
    if (v->algo == LM_VOCAB_BPE)
        return lm_err_set(e, LM_UNSUPPORTED, "GGUF's tokenizer keys cannot say what the stages of this tokenizer.json do: "
                                             "normalizer %.*s, pre-tokenizer %.*s; keep the file beside the model",
                          shown(v->normalizer), v->normalizer.size ? (const char *)v->normalizer.data : "none",
                          shown(v->pre_tokenizer), v->pre_tokenizer.size ? (const char *)v->pre_tokenizer.data : "none");
    if (!kind_of(v) || v->whitespace_as_suffix)
        return lm_err_set(e, LM_UNSUPPORTED, "GGUF has no tokenizer of this kind (%s)",
                          v->whitespace_as_suffix ? "the space goes behind a word" : v->source);
    struct lmi_vocab spm;
    int rc = v->algo == LM_VOCAB_UNIGRAM && !lmi_is_spm(v) ? lmi_unigram_as_spm(&spm, v, &a, e) : 0;
    if (rc == 0)
        rc = write_all(m, &a, v->algo == LM_VOCAB_UNIGRAM && !lmi_is_spm(v) ? &spm.v : v, n, e);
    lm_arena_free(&a);
    return rc;
}
