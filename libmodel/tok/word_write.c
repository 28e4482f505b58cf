/* tokenizer.json for the kinds that are not BPE, from a vocabulary's data; and a
 * tokenizer.json's Unigram in SentencePiece's terms, as GGUF needs it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/tok/base64.h"
#include "libmodel/tok/write.h"

static json_t *text_json(struct lm_span s)
{
    return json_stringn(s.size ? (const char *)s.data : "", s.size);
}

static json_t *stage_json(struct lm_span s)
{
    json_t *v = s.size ? json_loadb((const char *)s.data, s.size, 0, NULL) : NULL;

    return v ? v : json_null();
}

/* ---- models */

/* In the json of a piece's score. User-defined symbols win by their length in SentencePiece. */
static double score_for_json(const struct lm_vocab *v, size_t i)
{
    const struct lmi_vocab *b = lmi_vocab_of(v);
    const struct lm_piece *p = &v->pieces[i];

    if (b->scores && i < b->n_scores)
        return b->scores[i];
    if (lmi_is_spm(v) && p->kind == LM_PIECE_USER_DEFINED)
        return (double)(float)(0.1 * (double)(p->text.size - 1));
    return (double)p->score;
}

static json_t *unigram_json(const struct lm_vocab *v, struct lm_err *e)
{
    json_t *list = json_array();
    size_t n = v->n_pieces;

    while (n > 0 && !v->pieces[n - 1].in_model) /* they are added tokens */
        n--;
    for (size_t i = 0; i < n; i++)
        if (json_array_append_new(list, json_pack("[o f]", text_json(v->pieces[i].text), score_for_json(v, i))) < 0) {
            json_decref(list);
            lm_err_set(e, LM_UNSUPPORTED, "piece %zu is not UTF-8, which tokenizer.json cannot hold", i);
            return NULL;
        }
    return json_pack("{ss so sb so}", "type", "Unigram", "unk_id", v->unk_id >= 0 ? json_integer(v->unk_id) : json_null(),
                     "byte_fallback", v->byte_fallback, "vocab", list);
}

static json_t *words_json(const struct lm_vocab *v, struct lm_err *e)
{
    json_t *vocab = json_object(), *unk = v->unk_id >= 0 ? text_json(v->pieces[v->unk_id].text) : json_string("[UNK]");

    if (lmi_fill_vocab(vocab, v, e) < 0) {
        json_decref(vocab);
        json_decref(unk);
        return NULL;
    }
    if (v->algo == LM_VOCAB_WORDLEVEL)
        return json_pack("{ss so so}", "type", "WordLevel", "unk_token", unk, "vocab", vocab);
    return json_pack("{ss so so sI so}", "type", "WordPiece", "unk_token", unk, "continuing_subword_prefix",
                     text_json(v->continuing_subword_prefix), "max_input_chars_per_word",
                     (json_int_t)v->max_input_chars_per_word, "vocab", vocab);
}

json_t *lmi_word_model_json(const struct lm_vocab *v, struct lm_err *e)
{
    return v->algo == LM_VOCAB_UNIGRAM ? unigram_json(v, e) : words_json(v, e);
}

/* ---- SentencePiece's normalizer as steps */

static json_t *replace_json(const char *kind, const char *pattern, const char *content)
{
    return json_pack("{ss s{ss} ss}", "type", "Replace", "pattern", kind, pattern, "content", content);
}

static json_t *precompiled_json(struct lm_span charsmap)
{
    char *text = malloc((charsmap.size + 2) / 3 * 4 + 1);
    json_t *step = NULL;

    if (text) {
        lmi_base64_encode(charsmap, text);
        step = json_pack("{ss ss#}", "type", "Precompiled", "precompiled_charsmap", text, (int)((charsmap.size + 2) / 3 * 4));
    }
    free(text);
    return step;
}

static json_t *spm_steps(const struct lm_vocab *v)
{
    json_t *list = json_array();

    if (v->charsmap.size)
        json_array_append_new(list, precompiled_json(v->charsmap));
    if (v->remove_extra_whitespaces) {
        json_array_append_new(list, replace_json("Regex", "\\A +|[ " LMI_SPACE_MARK "]+\\z", ""));
        json_array_append_new(list, replace_json("Regex", " {2,}", " "));
    }
    if (v->add_dummy_prefix)
        json_array_append_new(list, json_pack("{ss ss}", "type", "Prepend", "prepend", LMI_SPACE_MARK));
    if (v->escape_whitespaces)
        json_array_append_new(list, replace_json("String", " ", LMI_SPACE_MARK));
    return json_pack("{ss so}", "type", "Sequence", "normalizers", list);
}

/* A text may be cut in front of every space if no piece holds one elsewhere. */
static bool cuts_at_spaces(const struct lm_vocab *v)
{
    for (size_t i = 0; i < v->n_pieces; i++) {
        struct lm_span s = v->pieces[i].text;
        bool normal = v->pieces[i].kind == LM_PIECE_NORMAL || v->pieces[i].kind == LM_PIECE_USER_DEFINED;
        if (normal && s.size > 3 && memmem(s.data + 1, s.size - 1, LMI_SPACE_MARK, 3))
            return false;
    }
    return v->escape_whitespaces;
}

json_t *lmi_word_stage_json(const struct lm_vocab *v, enum lmi_stage stage)
{
    if (stage == LMI_STAGE_NORMALIZER)
        return lmi_is_spm(v) ? spm_steps(v) : stage_json(v->normalizer);
    if (stage == LMI_STAGE_DECODER)
        return lmi_is_spm(v) ? lmi_spm_decoder_json(v) : stage_json(v->decoder);
    if (!lmi_is_spm(v))
        return stage_json(v->pre_tokenizer);
    return cuts_at_spaces(v) ? json_pack("{ss ss ss sb}", "type", "Metaspace", "replacement", LMI_SPACE_MARK,
                                         "prepend_scheme", "never", "split", 1)
                             : json_null();
}

/* ---- steps as SentencePiece's normalizer */

struct reading {
    struct lm_vocab *v;
    struct lm_arena *arena;
    bool splits, bad;
};

static bool is(const json_t *step, const char *type)
{
    const char *own = json_string_value(json_object_get(step, "type"));

    return own && strcmp(own, type) == 0;
}

static void read_charsmap(struct reading *r, const json_t *step)
{
    struct lm_span text = lm_json_span(json_object_get(step, "precompiled_charsmap"));
    uint8_t *out = lm_arena_alloc(r->arena, lmi_base64_room(text.size));
    int64_t n = out ? lmi_base64_decode(text, out) : -1;

    r->bad |= n < 0 || r->v->charsmap.size > 0;
    if (n >= 0)
        r->v->charsmap = lm_span_of(out, (size_t)n);
}

static void read_step(struct reading *r, const json_t *step)
{
    const char *scheme = json_string_value(json_object_get(step, "prepend_scheme"));
    const json_t *pattern = json_object_get(step, "pattern");
    bool spaces = json_object_get(pattern, "Regex") != NULL;
    struct lm_span literal = lm_json_span(json_object_get(pattern, "String"));

    if (is(step, "Precompiled"))
        read_charsmap(r, step);
    else if (is(step, "Strip") || is(step, "WhitespaceSplit") || (is(step, "Replace") && spaces))
        r->v->remove_extra_whitespaces = true;
    else if (is(step, "Prepend") || (is(step, "Replace") && lm_span_eq(literal, lm_span_str(" "))))
        r->v->add_dummy_prefix |= is(step, "Prepend");
    else if (is(step, "Metaspace"))
        r->v->add_dummy_prefix |= scheme ? strcmp(scheme, "never") != 0
                                         : !json_is_false(json_object_get(step, "add_prefix_space"));
    else
        r->bad = true;
}

static void read_stage(struct reading *r, struct lm_span text, const char *list_name)
{
    json_t *stage = stage_json(text);
    const json_t *list = json_object_get(stage, list_name);

    if (is(stage, "Sequence"))
        for (size_t i = 0; i < json_array_size(list); i++)
            read_step(r, json_array_get(list, i));
    else if (!json_is_null(stage))
        read_step(r, stage);
    json_decref(stage);
}

int lmi_unigram_as_spm(struct lmi_vocab *out, const struct lm_vocab *v, struct lm_arena *a, struct lm_err *e)
{
    struct reading r = {.v = &out->v, .arena = a};

    *out = *lmi_vocab_of(v);
    out->hf = false;
    out->v.charsmap = (struct lm_span){NULL, 0};
    out->v.add_dummy_prefix = out->v.remove_extra_whitespaces = false;
    out->v.escape_whitespaces = true;
    read_stage(&r, v->normalizer, "normalizers");
    read_stage(&r, v->pre_tokenizer, "pretokenizers");
    if (r.bad)
        return lm_err_set(e, LM_UNSUPPORTED, "GGUF holds Unigram vocabularies with SentencePiece's normalizer only "
                                             "(Precompiled, spaces removed, Metaspace); this one has other steps");
    return 0;
}
