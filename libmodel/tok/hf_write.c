/* tokenizer.json and tokenizer_config.json from a vocabulary's data alone: what
 * the readers (hf_json.c, hf_parts.c, hf_config.c) take apart, put together. */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/tok/pretok.h"
#include "libmodel/tok/write.h"

/* NULL when the text is not UTF-8 (then the file cannot be written). */
static json_t *text_json(struct lm_span s)
{
    return json_stringn(s.size ? (const char *)s.data : "", s.size);
}

/* Converters fill ids without a piece; HF just leaves them out. */
static bool is_filler(const struct lm_piece *p)
{
    return p->kind == LM_PIECE_UNUSED && p->text.size > 5 && memcmp(p->text.data, "[PAD", 4) == 0;
}

static json_t *typed(const char *type)
{
    return json_pack("{ss}", "type", type);
}

/* ---- tokenizer.json */

static json_t *added_token(const struct lm_piece *p, size_t id, bool with_id)
{
    json_t *o = json_object();

    if (with_id)
        json_object_set_new(o, "id", json_integer((json_int_t)id));
    if (json_object_set_new(o, "content", text_json(p->text)) < 0) {
        json_decref(o);
        return NULL;
    }
    json_object_set_new(o, "single_word", json_boolean(p->single_word));
    json_object_set_new(o, "lstrip", json_boolean(p->lstrip));
    json_object_set_new(o, "rstrip", json_boolean(p->rstrip));
    json_object_set_new(o, "normalized", json_boolean(p->normalized));
    json_object_set_new(o, "special", json_boolean(p->special));
    return o;
}

static bool is_added(const struct lm_piece *p)
{
    return p->added || p->kind == LM_PIECE_CONTROL;
}

static json_t *added_list(const struct lm_vocab *v, struct lm_err *e)
{
    json_t *list = json_array();

    for (size_t i = 0; i < v->n_pieces; i++)
        if (is_added(&v->pieces[i]) && json_array_append_new(list, added_token(&v->pieces[i], i, true)) < 0) {
            json_decref(list);
            lm_err_set(e, LM_UNSUPPORTED, "added token %zu is not UTF-8, which tokenizer.json cannot hold", i);
            return NULL;
        }
    return list;
}

int lmi_fill_vocab(json_t *vocab, const struct lm_vocab *v, struct lm_err *e)
{
    for (size_t i = 0; i < v->n_pieces; i++) {
        const struct lm_piece *p = &v->pieces[i];
        char *key = (char *)p->text.data;
        if (!p->in_model || is_filler(p))
            continue;
        if (json_object_getn(vocab, key, p->text.size))
            return lm_err_set(e, LM_UNSUPPORTED, "piece %zu has the text of another one, which tokenizer.json cannot "
                                                 "hold", i);
        if (memchr(key, 0, p->text.size) || json_object_setn_new(vocab, key, p->text.size, json_integer((json_int_t)i)) < 0)
            return lm_err_set(e, LM_UNSUPPORTED, "piece %zu is not UTF-8 without NUL, which tokenizer.json cannot hold", i);
    }
    return 0;
}

static json_t *merge_list(const struct lm_vocab *v)
{
    json_t *list = json_array();

    for (size_t i = 0; i < v->n_merges; i++)
        json_array_append_new(list, json_pack("[oo]", text_json(v->pieces[v->merges[i].left].text),
                                              text_json(v->pieces[v->merges[i].right].text)));
    return list;
}

static json_t *text_or_null(struct lm_span s)
{
    return s.size ? text_json(s) : json_null();
}

static json_t *model_json(const struct lm_vocab *v, struct lm_err *e)
{
    json_t *m = typed("BPE"), *vocab = json_object();
    bool unk = v->unk_id >= 0 && v->pieces[v->unk_id].in_model;

    json_object_set_new(m, "dropout", json_null());
    json_object_set_new(m, "unk_token", unk ? text_json(v->pieces[v->unk_id].text) : json_null());
    json_object_set_new(m, "continuing_subword_prefix", text_or_null(v->continuing_subword_prefix));
    json_object_set_new(m, "end_of_word_suffix", text_or_null(v->end_of_word_suffix));
    json_object_set_new(m, "fuse_unk", json_boolean(v->fuse_unk));
    json_object_set_new(m, "byte_fallback", json_boolean(v->byte_fallback));
    json_object_set_new(m, "ignore_merges", json_boolean(v->ignore_merges));
    json_object_set_new(m, "vocab", vocab);
    json_object_set_new(m, "merges", merge_list(v));
    if (lmi_fill_vocab(vocab, v, e) == 0)
        return m;
    json_decref(m);
    return NULL;
}

static json_t *split_json(struct lm_span regex)
{
    return json_pack("{ss s{so} ss sb}", "type", "Split", "pattern", "Regex", text_json(regex), "behavior", "Isolated",
                     "invert", 0);
}

static json_t *byte_level(bool prefix, bool regex)
{
    return json_pack("{ss sb sb sb}", "type", "ByteLevel", "add_prefix_space", prefix, "trim_offsets", 1, "use_regex", regex);
}

static json_t *byte_pre_tokenizer(const struct lm_vocab *v)
{
    struct lm_span rest = v->pre_pattern;

    if (lm_span_eq(rest, lm_span_str(lmi_re_gpt2)))
        return byte_level(v->add_prefix_space, true);
    json_t *list = json_array();
    while (rest.size > 0) {
        const uint8_t *nul = memchr(rest.data, 0, rest.size);
        size_t n = nul ? (size_t)(nul - rest.data) : rest.size, skip = nul ? n + 1 : n;
        json_array_append_new(list, split_json(lm_span_of(rest.data, n)));
        rest = lm_span_of(rest.data + skip, rest.size - skip);
    }
    json_array_append_new(list, byte_level(false, false));
    return json_pack("{ss so}", "type", "Sequence", "pretokenizers", list);
}

static json_t *metaspace(const struct lm_vocab *v)
{
    const char *scheme = !v->add_prefix_space ? "never" : v->prefix_every_part ? "always" : "first";

    return json_pack("{ss ss ss sb}", "type", "Metaspace", "replacement", LMI_SPACE_MARK, "prepend_scheme", scheme, "split", 0);
}

static json_t *spm_normalizer(const struct lm_vocab *v)
{
    json_t *replace = json_pack("{ss s{ss} ss}", "type", "Replace", "pattern", "String", " ", "content", LMI_SPACE_MARK);

    if (!v->add_dummy_prefix)
        return replace;
    return json_pack("{ss s[{ss ss} o]}", "type", "Sequence", "normalizers", "type", "Prepend", "prepend",
                     LMI_SPACE_MARK, replace);
}

json_t *lmi_spm_decoder_json(const struct lm_vocab *v)
{
    json_t *list = json_pack("[{ss s{ss} ss} {ss} {ss}]", "type", "Replace", "pattern", "String", LMI_SPACE_MARK,
                             "content", " ", "type", "ByteFallback", "type", "Fuse");

    if (v->add_dummy_prefix || v->add_prefix_space)
        json_array_append_new(list, json_pack("{ss ss si si}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
    return json_pack("{ss so}", "type", "Sequence", "decoders", list);
}

static void add_special(json_t *single, json_t *pair, json_t *tokens, const struct lm_vocab *v, int64_t id)
{
    json_t *text = text_json(v->pieces[id].text);

    json_array_append_new(single, json_pack("{s{sO si}}", "SpecialToken", "id", text, "type_id", 0));
    json_array_append_new(pair, json_pack("{s{sO si}}", "SpecialToken", "id", text, "type_id", 0));
    json_object_set_new(tokens, text ? json_string_value(text) : "",
                        json_pack("{sO s[I] s[O]}", "id", text, "ids", (json_int_t)id, "tokens", text));
    json_decref(text);
}

static json_t *post_processor(const struct lm_vocab *v)
{
    json_t *single = json_array(), *pair = json_array(), *tokens = json_object();

    if (v->add_bos && v->bos_id >= 0)
        add_special(single, pair, tokens, v, v->bos_id);
    json_array_append_new(single, json_pack("{s{ss si}}", "Sequence", "id", "A", "type_id", 0));
    json_array_append_new(pair, json_pack("{s{ss si}}", "Sequence", "id", "A", "type_id", 0));
    if (v->add_eos && v->eos_id >= 0)
        add_special(single, pair, tokens, v, v->eos_id);
    json_array_append_new(pair, json_pack("{s{ss si}}", "Sequence", "id", "B", "type_id", 1));
    if (json_object_size(tokens) > 0)
        return json_pack("{ss so so so}", "type", "TemplateProcessing", "single", single, "pair", pair, "special_tokens",
                         tokens);
    json_decref(single);
    json_decref(pair);
    json_decref(tokens);
    return v->algo == LM_VOCAB_BYTE_BPE ? byte_level(false, true) : json_null();
}

static int dump(struct lmi_buf *out, json_t *root, struct lm_err *e)
{
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;

    json_decref(root);
    if (!text)
        return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer file");
    lmi_buf_str(out, text);
    lmi_buf_str(out, "\n");
    free(text);
    return 0;
}

/* A stage as the source declared it. */
static json_t *source_stage(struct lm_span text)
{
    return text.size ? json_loadb((const char *)text.data, text.size, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL) : json_null();
}

/* BPE behind stages that only their own words describe. */
static json_t *staged_json(const struct lm_vocab *v, json_t *added, json_t *model)
{
    json_t *root = json_pack("{ss sn sn so}", "version", "1.0", "truncation", "padding", "added_tokens", added);

    json_object_set_new(root, "normalizer", source_stage(v->normalizer));
    json_object_set_new(root, "pre_tokenizer", source_stage(v->pre_tokenizer));
    json_object_set_new(root, "post_processor", v->post_processor.size ? source_stage(v->post_processor) : post_processor(v));
    json_object_set_new(root, "decoder", source_stage(v->decoder));
    json_object_set_new(root, "model", model);
    return root;
}

int lmi_tokenizer_json_write(struct lmi_buf *out, const struct lm_vocab *v, struct lm_err *e)
{
    bool bytes = v->algo == LM_VOCAB_BYTE_BPE, meta = lmi_vocab_of(v)->metaspace;
    bool bpe = bytes || v->algo == LM_VOCAB_SPM_BPE || v->algo == LM_VOCAB_BPE;

    if (bytes && v->add_prefix_space && !lm_span_eq(v->pre_pattern, lm_span_str(lmi_re_gpt2)))
        return lm_err_set(e, LM_UNSUPPORTED, "tokenizer.json cannot say that a space goes in front of a text when the "
                                             "pre-tokenizer is not GPT-2's");
    json_t *added = added_list(v, e), *model = !added ? NULL : bpe ? model_json(v, e) : lmi_word_model_json(v, e);
    if (!model) {
        json_decref(added);
        return -1;
    }
    if (v->algo == LM_VOCAB_BPE)
        return dump(out, staged_json(v, added, model), e);
    json_t *root = json_pack("{ss sn sn so}", "version", "1.0", "truncation", "padding", "added_tokens", added);
    if (!bpe) {
        json_object_set_new(root, "normalizer", lmi_word_stage_json(v, LMI_STAGE_NORMALIZER));
        json_object_set_new(root, "pre_tokenizer", lmi_word_stage_json(v, LMI_STAGE_PRE_TOKENIZER));
        json_object_set_new(root, "post_processor", post_processor(v));
        json_object_set_new(root, "decoder", lmi_word_stage_json(v, LMI_STAGE_DECODER));
        json_object_set_new(root, "model", model);
        return dump(out, root, e);
    }
    json_object_set_new(root, "normalizer", bytes ? v->nfc ? typed("NFC") : json_null() : meta ? json_null() : spm_normalizer(v));
    json_object_set_new(root, "pre_tokenizer", bytes ? byte_pre_tokenizer(v) : meta ? metaspace(v) : json_null());
    json_object_set_new(root, "post_processor",
                        v->n_prefix_ids + v->n_suffix_ids ? source_stage(v->post_processor) : post_processor(v));
    json_object_set_new(root, "decoder", bytes ? byte_level(true, true) : lmi_spm_decoder_json(v));
    json_object_set_new(root, "model", model);
    return dump(out, root, e);
}

/* ---- tokenizer_config.json */

static void set_token(json_t *o, const char *key, const struct lm_vocab *v, int64_t id)
{
    json_t *text = id >= 0 ? text_json(v->pieces[id].text) : NULL;

    json_object_set_new(o, key, text ? text : json_null());
}

/* Tokens that tokenizer.model cannot hold as what they are. */
static json_t *added_decoder(const struct lm_vocab *v)
{
    json_t *map = json_object();

    for (size_t i = 0; i < v->n_pieces; i++) {
        char key[24];
        snprintf(key, sizeof key, "%zu", i);
        if (v->pieces[i].added)
            json_object_set_new(map, key, added_token(&v->pieces[i], i, false));
    }
    return map;
}

int lmi_tokenizer_config_write(struct lmi_buf *out, const struct lm_vocab *v, struct lm_err *e)
{
    bool model = v->algo == LM_VOCAB_SPM_BPE && !lmi_vocab_of(v)->ranked, bert = v->algo == LM_VOCAB_WORDPIECE;
    json_t *o = json_pack("{ss sb}", "tokenizer_class", model ? "LlamaTokenizer" : "PreTrainedTokenizerFast",
                          "clean_up_tokenization_spaces", 0);

    set_token(o, bert ? "cls_token" : "bos_token", v, v->bos_id);
    set_token(o, bert ? "sep_token" : "eos_token", v, v->eos_id);
    set_token(o, "unk_token", v, v->unk_id);
    set_token(o, "pad_token", v, v->pad_id);
    json_object_set_new(o, "add_bos_token", json_boolean(v->add_bos));
    json_object_set_new(o, "add_eos_token", json_boolean(v->add_eos));
    if (model) {
        json_object_set_new(o, "legacy", json_boolean(v->prefix_every_part));
        json_object_set_new(o, "added_tokens_decoder", added_decoder(v));
    }
    if (v->chat_template.size)
        json_object_set_new(o, "chat_template", text_json(v->chat_template));
    return dump(out, o, e);
}

/* ---- all of them */

static bool wants_model(const struct lm_vocab *v)
{
    return lmi_is_spm(v) && !lmi_vocab_of(v)->ranked;
}

static int write_model(struct lmi_buf *out, const struct lm_vocab *v, struct lm_err *e)
{
    (void)e;
    lmi_spm_write(out, v);
    return 0;
}

/* Hugging Face loads a Unigram from tokenizer.json only. */
static bool wants_json(const struct lm_vocab *v)
{
    return (!wants_model(v) && v->algo != LM_VOCAB_GREEDY) || (v->algo == LM_VOCAB_UNIGRAM && !v->whitespace_as_suffix);
}

static bool wants_rwkv(const struct lm_vocab *v)
{
    return v->algo == LM_VOCAB_GREEDY;
}

static int write_rwkv(struct lmi_buf *out, const struct lm_vocab *v, struct lm_err *e)
{
    (void)e;
    lmi_rwkv_write(out, v);
    return 0;
}

static bool wants_config(const struct lm_vocab *v)
{
    (void)v;
    return true;
}

static const struct file_kind {
    const char *name;
    bool (*wanted)(const struct lm_vocab *v);
    int (*write)(struct lmi_buf *out, const struct lm_vocab *v, struct lm_err *e);
} file_kinds[] = {
    {"tokenizer.model", wants_model, write_model},
    {"tokenizer.json", wants_json, lmi_tokenizer_json_write},
    {"rwkv_vocab_v20230424.txt", wants_rwkv, write_rwkv},
    {"tokenizer_config.json", wants_config, lmi_tokenizer_config_write},
};
enum { N_FILE_KINDS = sizeof file_kinds / sizeof *file_kinds };

int lm_vocab_to_files(const struct lm_vocab *v,
                      int (*emit)(void *user, const char *name, struct lm_span data, struct lm_err *e), void *user,
                      struct lm_err *e)
{
    struct lmi_buf files[N_FILE_KINDS] = {{0}};
    int rc = 0;

    /* All of them are made before the first is given away. */
    for (size_t i = 0; i < N_FILE_KINDS && rc == 0; i++) {
        rc = file_kinds[i].wanted(v) ? file_kinds[i].write(&files[i], v, e) : 0;
        if (rc == 0 && files[i].failed)
            rc = lm_err_set(e, LM_NOMEM, "out of memory for tokenizer files");
    }
    for (size_t i = 0; i < N_FILE_KINDS && rc == 0; i++)
        if (file_kinds[i].wanted(v))
            rc = emit(user, file_kinds[i].name, lm_span_of(files[i].data, files[i].n), e);
    for (size_t i = 0; i < N_FILE_KINDS; i++)
        lmi_buf_free(&files[i]);
    return rc;
}
