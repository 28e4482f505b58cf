/* BERT's vocab.txt: one piece a line, its id is the number of the line from 0.
 * What stands around it is in tokenizer_config.json: do_lower_case (true when
 * absent), strip_accents (null: as do_lower_case), tokenize_chinese_chars
 * (true), and the names of the special pieces ("[CLS]" and so on when absent).
 * In GGUF (tokenizer "bert") the pieces that begin a word have U+2581 in front
 * and the others lose their "##". */
#include "libmodel/tok/bert.h"

#include <stdlib.h>

#include "libmodel/tok/pipeline.h"

/* ---- stages */

static int keep_stage(struct lmi_vocab *b, struct lm_span *out, const json_t *stage, struct lm_err *e)
{
    char *text = stage ? json_dumps(stage, JSON_COMPACT) : NULL;

    if (text)
        *out = lmi_vocab_copy(b, lm_span_str(text));
    free(text);
    return text && out->data ? 0 : lmi_nomem_vocab(e);
}

static json_t *piece_pair(const struct lm_vocab *v, int64_t id)
{
    return json_pack("[o I]", json_stringn((const char *)v->pieces[id].text.data, v->pieces[id].text.size), (json_int_t)id);
}

static int use_stages(struct lmi_vocab *b, const struct lmi_stages *s, struct lm_err *e)
{
    struct lm_vocab *v = &b->v;

    if (!s->normalizer || !s->pre_tokenizer || !s->decoder)
        return lmi_nomem_vocab(e);
    if (lmi_hf_stages(b, s, e) < 0 || lmi_hf_post_processor(b, s->post_processor, e) < 0 ||
        keep_stage(b, &v->normalizer, s->normalizer, e) < 0 || keep_stage(b, &v->pre_tokenizer, s->pre_tokenizer, e) < 0 ||
        keep_stage(b, &v->decoder, s->decoder, e) < 0)
        return -1;
    return s->post_processor ? keep_stage(b, &v->post_processor, s->post_processor, e) : 0;
}

int lmi_bert_stages(struct lmi_vocab *b, struct lmi_bert_flags f, struct lm_err *e)
{
    const struct lm_vocab *v = &b->v;
    json_t *accents = f.strip_accents < 0 ? json_null() : json_boolean(f.strip_accents);
    json_t *norm = json_pack("{ss sb sb so sb}", "type", "BertNormalizer", "clean_text", f.clean_text,
                             "handle_chinese_chars", f.chinese_chars, "strip_accents", accents, "lowercase", f.lowercase);
    json_t *pre = json_pack("{ss}", "type", "BertPreTokenizer"), *post = NULL;
    json_t *decoder = json_pack("{ss ss sb}", "type", "WordPiece", "prefix", "##", "cleanup", 1);

    if (v->bos_id >= 0 && v->eos_id >= 0)
        post = json_pack("{ss so so}", "type", "BertProcessing", "sep", piece_pair(v, v->eos_id), "cls",
                         piece_pair(v, v->bos_id));
    struct lmi_stages s = {norm, pre, post, decoder};
    int rc = use_stages(b, &s, e);
    json_decref(norm);
    json_decref(pre);
    json_decref(post);
    json_decref(decoder);
    return rc;
}

static json_t *load_stage(struct lm_span s)
{
    return s.size ? json_loadb((const char *)s.data, s.size, 0, NULL) : NULL;
}

static bool type_is(const json_t *stage, const char *type)
{
    const char *own = json_string_value(json_object_get(stage, "type"));

    return own && strcmp(own, type) == 0;
}

bool lmi_bert_flags_of(const struct lm_vocab *v, struct lmi_bert_flags *f)
{
    json_t *norm = load_stage(v->normalizer), *pre = load_stage(v->pre_tokenizer);
    bool bert = type_is(norm, "BertNormalizer") && type_is(pre, "BertPreTokenizer");
    const json_t *accents = json_object_get(norm, "strip_accents");

    f->lowercase = !json_is_false(json_object_get(norm, "lowercase"));
    f->chinese_chars = !json_is_false(json_object_get(norm, "handle_chinese_chars"));
    f->clean_text = !json_is_false(json_object_get(norm, "clean_text"));
    f->strip_accents = json_is_boolean(accents) ? json_is_true(accents) : -1;
    json_decref(norm);
    json_decref(pre);
    return bert;
}

/* ---- vocab.txt */

static const char *const special_names[][2] = {
    {"unk_token", "[UNK]"}, {"cls_token", "[CLS]"}, {"sep_token", "[SEP]"}, {"pad_token", "[PAD]"}, {"mask_token", "[MASK]"}};
enum { UNK, CLS, SEP, PAD, N_NAMES = 5 };

static int read_lines(struct lmi_vocab *b, struct lm_span file, struct lm_err *e)
{
    size_t pos = 0;

    for (size_t id = 0; pos < file.size; id++) {
        const uint8_t *end = memchr(file.data + pos, '\n', file.size - pos);
        size_t n = end ? (size_t)(end - file.data) - pos : file.size - pos, next = pos + n + 1;
        if (n > 0 && file.data[pos + n - 1] == '\r')
            n--;
        struct lm_piece *p = lmi_vocab_piece(b, id);
        if (!p)
            return lmi_nomem_vocab(e);
        if (n > 0) { /* an empty line only takes its number */
            *p = (struct lm_piece){.text = lmi_vocab_copy(b, lm_span_of(file.data + pos, n)), .kind = LM_PIECE_NORMAL,
                                   .in_model = true};
            if (!p->text.data)
                return lmi_nomem_vocab(e);
        }
        pos = next;
    }
    return lmi_vocab_index(b, e);
}

static struct lm_span name_of(const json_t *config, size_t i)
{
    const json_t *v = json_object_get(config, special_names[i][0]);
    struct lm_span s = lm_json_span(json_is_object(v) ? json_object_get(v, "content") : v);

    return s.data ? s : lm_span_str(special_names[i][1]);
}

static void mark_special(struct lmi_vocab *b, const json_t *config)
{
    int64_t *const places[N_NAMES] = {[UNK] = &b->v.unk_id, [CLS] = &b->v.bos_id, [SEP] = &b->v.eos_id, [PAD] = &b->v.pad_id};

    for (size_t i = 0; i < N_NAMES; i++) {
        uint32_t id = lmi_texts_get(&b->texts, name_of(config, i));
        if (id == LMI_NONE)
            continue;
        b->pieces[id].kind = i == UNK ? LM_PIECE_UNKNOWN : LM_PIECE_CONTROL;
        b->pieces[id].special = b->pieces[id].added = true;
        if (places[i])
            *places[i] = id;
    }
}

static bool flag(const json_t *config, const char *key)
{
    return !json_is_false(json_object_get(config, key));
}

int lmi_bert_vocab_read(struct lmi_vocab *b, struct lm_span file, struct lmi_files files, struct lm_err *e)
{
    struct lm_span text = {0};
    int rc = files.get ? files.get(files.user, "tokenizer_config.json", &text, e) : 0;
    json_t *config = rc > 0 ? lm_json_parse(text, "tokenizer_config.json", e) : NULL;

    if (rc < 0 || (rc > 0 && !config))
        return -1;
    b->v.algo = LM_VOCAB_WORDPIECE;
    b->v.source = "vocab.txt";
    b->v.continuing_subword_prefix = lm_span_str("##");
    b->v.max_input_chars_per_word = 100;
    rc = read_lines(b, file, e);
    if (rc == 0) {
        const json_t *accents = json_object_get(config, "strip_accents");
        mark_special(b, config);
        rc = lmi_bert_stages(b, (struct lmi_bert_flags){.lowercase = flag(config, "do_lower_case"), .clean_text = true,
                                    .chinese_chars = flag(config, "tokenize_chinese_chars"),
                                    .strip_accents = json_is_boolean(accents) ? json_is_true(accents) : -1}, e);
    }
    json_decref(config);
    return rc < 0 ? lm_err_prefix(e, "vocab.txt") : 0;
}

/* ---- GGUF */

static bool begins(struct lm_span s, struct lm_span prefix)
{
    return s.size >= prefix.size && memcmp(s.data, prefix.data, prefix.size) == 0;
}

static struct lm_span join(struct lm_arena *a, struct lm_span x, struct lm_span y)
{
    uint8_t *out = lm_arena_alloc(a, x.size + y.size + 1);

    if (!out)
        return (struct lm_span){NULL, 0};
    memcpy(out, x.data, x.size);
    memcpy(out + x.size, y.data, y.size);
    return lm_span_of(out, x.size + y.size);
}

struct lm_span lmi_bert_to_gguf(struct lm_arena *a, const struct lm_vocab *v, const struct lm_piece *p)
{
    struct lm_span prefix = v->continuing_subword_prefix;

    if (p->special || p->kind == LM_PIECE_CONTROL || p->kind == LM_PIECE_UNKNOWN || p->kind == LM_PIECE_UNUSED)
        return p->text;
    if (prefix.size > 0 && begins(p->text, prefix))
        return lm_span_of(p->text.data + prefix.size, p->text.size - prefix.size);
    return join(a, lm_span_str(LMI_SPACE_MARK), p->text);
}

/* Undoes that. Older converters give every piece the kind NORMAL and leave
 * those in brackets alone. */
int lmi_bert_from_gguf(struct lmi_vocab *b, struct lm_err *e)
{
    struct lm_span mark = lm_span_str(LMI_SPACE_MARK);

    b->v.continuing_subword_prefix = lm_span_str("##");
    b->v.max_input_chars_per_word = 100;
    for (size_t i = 0; i < b->v.n_pieces; i++) {
        struct lm_piece *p = &b->pieces[i];
        bool bracket = p->text.size > 2 && p->text.data[0] == '[' && p->text.data[p->text.size - 1] == ']';
        if (p->kind == LM_PIECE_CONTROL || p->kind == LM_PIECE_UNKNOWN || p->kind == LM_PIECE_UNUSED || bracket)
            continue;
        if (begins(p->text, mark))
            p->text = lm_span_of(p->text.data + mark.size, p->text.size - mark.size);
        else
            p->text = join(&b->arena, lm_span_str("##"), p->text);
        if (!p->text.data)
            return lmi_nomem_vocab(e);
    }
    return 0;
}
