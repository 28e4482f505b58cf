/* tokenizer.json (Hugging Face tokenizers): {"model": {"type": "BPE", "vocab": {text: id}, "merges": […],
 * "byte_fallback", "fuse_unk", "unk_token", "ignore_merges", …}, "added_tokens": […], "normalizer",
 * "pre_tokenizer", "post_processor", "decoder"}.
 * Two families are read: byte-level BPE (GPT-2's letters for bytes) and
 * SentencePiece-style BPE (U+2581 for a space, <0xHH> for bytes). Whatever
 * would change ids and is not handled is refused by name.
 * vocab.json + merges.txt is the same model without the rest: GPT-2's. */
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/pretok.h"

static bool empty(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) || (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_number(v) && json_number_value(v) == 0);
}

static struct lm_span key_of(void *iter)
{
    return lm_span_of(json_object_iter_key(iter), json_object_iter_key_len(iter));
}

/* Ids may have holes (padding to a round number), not arbitrary values: the
 * list of pieces grows with the bytes of the file, not with a number in it. */
static int read_vocab(struct lmi_vocab *b, json_t *vocab, struct lm_err *e)
{
    json_int_t limit = 2 * (json_int_t)json_object_size(vocab) + 4096;

    for (void *it = json_object_iter(vocab); it; it = json_object_iter_next(vocab, it)) {
        const json_t *value = json_object_iter_value(it);
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        struct lm_span key = key_of(it);
        if (id < 0 || id >= limit)
            return lm_err_set(e, LM_MALFORMED, "the id of '%.*s' is no number from 0 to %lld",
                              (int)(key.size < 80 ? key.size : 80), (const char *)key.data, (long long)limit - 1);
        struct lm_piece *p = lmi_vocab_piece(b, (size_t)id);
        if (!p)
            return lmi_nomem_vocab(e);
        if (p->text.data)
            return lm_err_set(e, LM_MALFORMED, "two pieces have the id %lld", (long long)id);
        *p = (struct lm_piece){.text = lmi_vocab_copy(b, key), .kind = LM_PIECE_NORMAL, .in_model = true};
        if (!p->text.data)
            return lmi_nomem_vocab(e);
    }
    return lmi_vocab_index(b, e);
}

/* "left right", or ["left", "right"] (halves may then hold spaces). */
static int read_merge(struct lmi_vocab *b, size_t rank, const json_t *item, struct lm_err *e)
{
    struct lm_span l = lm_json_span(json_array_get(item, 0)), r = lm_json_span(json_array_get(item, 1));

    if (json_is_string(item)) {
        struct lm_span s = lm_json_span(item);
        const uint8_t *space = s.size ? memchr(s.data, ' ', s.size) : NULL;
        if (space) {
            l = lm_span_of(s.data, (size_t)(space - s.data));
            r = lm_span_of(space + 1, s.size - l.size - 1);
        }
        if (!space || (r.size && memchr(r.data, ' ', r.size)))
            return lm_err_set(e, LM_MALFORMED, "merge %zu is not two halves with a space between", rank);
    } else if (json_array_size(item) != 2 || !json_is_string(json_array_get(item, 0)) ||
               !json_is_string(json_array_get(item, 1)))
        return lm_err_set(e, LM_MALFORMED, "merge %zu is neither a string nor a pair of strings", rank);
    return lmi_vocab_merge(b, rank, l, r, e);
}

static int read_merges(struct lmi_vocab *b, const json_t *merges, struct lm_err *e)
{
    size_t n = json_array_size(merges);

    if (!json_is_array(merges))
        return lm_err_set(e, LM_MALFORMED, "model.merges is no array");
    b->merges = calloc(n + 1, sizeof *b->merges);
    if (!b->merges)
        return lmi_nomem_vocab(e);
    for (size_t i = 0; i < n; i++) {
        if (read_merge(b, i, json_array_get(merges, i), e) < 0)
            return -1;
        b->v.n_merges = i + 1;
    }
    return 0;
}

static int check_model(const json_t *model, struct lm_err *e)
{
    static const char *const foreign[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    const char *type = json_string_value(json_object_get(model, "type"));

    if (!json_is_object(model))
        return lm_err_set(e, LM_MALFORMED, "there is no object 'model'");
    if (type ? strcmp(type, "BPE") != 0 : !json_object_get(model, "merges"))
        return lm_err_set(e, LM_UNSUPPORTED, "the tokenizer model is %s; only BPE is handled", type ? type : "unnamed");
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (!empty(json_object_get(model, foreign[i])))
            return lm_err_set(e, LM_UNSUPPORTED, "model.%s is set, which is not handled", foreign[i]);
    if (!json_is_object(json_object_get(model, "vocab")))
        return lm_err_set(e, LM_MALFORMED, "model.vocab is no object");
    return 0;
}

static int read_unknown(struct lmi_vocab *b, const json_t *model, struct lm_err *e)
{
    struct lm_span unk = lm_json_span(json_object_get(model, "unk_token"));

    b->v.fuse_unk = !empty(json_object_get(model, "fuse_unk"));
    if (!unk.data)
        return 0;
    uint32_t id = lmi_texts_get(&b->texts, unk);
    if (id == LMI_NONE)
        return lm_err_set(e, LM_MALFORMED, "model.unk_token '%.*s' is not in the vocabulary",
                          (int)(unk.size < 80 ? unk.size : 80), (const char *)unk.data);
    b->v.unk_id = id;
    if (b->v.algo == LM_VOCAB_SPM_BPE)
        b->pieces[id].kind = LM_PIECE_UNKNOWN;
    return 0;
}

static int read_model(struct lmi_vocab *b, const json_t *model, struct lm_err *e)
{
    if (read_vocab(b, json_object_get(model, "vocab"), e) < 0 || read_unknown(b, model, e) < 0 ||
        read_merges(b, json_object_get(model, "merges"), e) < 0)
        return -1;
    b->v.ignore_merges = !empty(json_object_get(model, "ignore_merges"));
    if (b->v.algo == LM_VOCAB_BYTE_BPE)
        return 0;
    b->ranked = true;
    if (b->v.ignore_merges)
        return lm_err_set(e, LM_UNSUPPORTED, "model.ignore_merges in a SentencePiece-style vocabulary is not handled");
    b->v.byte_fallback = !empty(json_object_get(model, "byte_fallback"));
    for (size_t i = 0; i < b->v.n_pieces; i++)
        if (b->v.byte_fallback && lmi_byte_piece(b->pieces[i].text) >= 0)
            b->pieces[i].kind = LM_PIECE_BYTE;
    lmi_vocab_scores_from_merges(b);
    return 0;
}

/* Does an object of this type occur in a pre-tokenizer, normalizer or decoder
 * (alone or in a Sequence)? */
static bool mentions(const json_t *v, const char *type)
{
    static const char *const lists[] = {"pretokenizers", "normalizers", "decoders"};
    const char *own = json_string_value(json_object_get(v, "type"));

    if (own && strcmp(own, type) == 0)
        return true;
    for (size_t k = 0; k < 3; k++) {
        const json_t *list = json_object_get(v, lists[k]);
        for (size_t i = 0; i < json_array_size(list); i++) {
            own = json_string_value(json_object_get(json_array_get(list, i), "type"));
            if (own && strcmp(own, type) == 0)
                return true;
        }
    }
    return false;
}

static int read_root(struct lmi_vocab *b, const json_t *root, struct lm_err *e)
{
    const json_t *model = json_object_get(root, "model"), *pre = json_object_get(root, "pre_tokenizer");

    if (check_model(model, e) < 0)
        return -1;
    bool bytes = mentions(pre, "ByteLevel") || mentions(json_object_get(root, "decoder"), "ByteLevel");
    b->v.algo = bytes ? LM_VOCAB_BYTE_BPE : LM_VOCAB_SPM_BPE;
    b->v.source = "tokenizer.json";
    if (lmi_hf_normalizer(b, json_object_get(root, "normalizer"), e) < 0 || lmi_hf_pre_tokenizer(b, pre, e) < 0)
        return -1;
    if (!bytes && !b->v.escape_whitespaces)
        return lm_err_set(e, LM_UNSUPPORTED, "this BPE vocabulary is neither byte-level nor SentencePiece-style (spaces "
                                             "as U+2581); others are not handled");
    if (read_model(b, model, e) < 0 || lmi_hf_added_tokens(b, json_object_get(root, "added_tokens"), e) < 0 ||
        lmi_vocab_index(b, e) < 0 || lmi_hf_post_processor(b, json_object_get(root, "post_processor"), e) < 0)
        return -1;
    if (bytes) {
        const struct lmi_pre_name *name = lmi_pre_match(b->v.pre_pattern, b->v.ignore_merges);
        b->v.pre = name ? name->name : "";
    }
    return 0;
}

int lmi_tokenizer_json_read(struct lmi_vocab *b, struct lm_span file, struct lm_err *e)
{
    json_t *root = lm_json_parse(file, "tokenizer.json", e);

    if (!root)
        return -1;
    int rc = read_root(b, root, e);
    json_decref(root);
    return rc < 0 ? lm_err_prefix(e, "tokenizer.json") : 0;
}

/* ---- vocab.json + merges.txt */

static struct lm_span next_line(struct lm_span *rest)
{
    const uint8_t *end = memchr(rest->data, '\n', rest->size);
    size_t n = end ? (size_t)(end - rest->data) : rest->size, skip = end ? n + 1 : n;
    struct lm_span line = lm_span_of(rest->data, n > 0 && rest->data[n - 1] == '\r' ? n - 1 : n);

    *rest = lm_span_of(rest->data + skip, rest->size - skip);
    return line;
}

static size_t count_lines(struct lm_span s)
{
    size_t n = 1;

    for (size_t i = 0; i < s.size; i++)
        n += s.data[i] == '\n';
    return n;
}

static int read_merge_lines(struct lmi_vocab *b, struct lm_span rest, struct lm_err *e)
{
    b->merges = calloc(count_lines(rest), sizeof *b->merges);
    if (!b->merges)
        return lmi_nomem_vocab(e);
    for (size_t number = 1; rest.size; number++) {
        struct lm_span line = next_line(&rest);
        if (line.size == 0 || (line.size >= 8 && memcmp(line.data, "#version", 8) == 0))
            continue;
        const uint8_t *space = memchr(line.data, ' ', line.size);
        size_t left = space ? (size_t)(space - line.data) : 0;
        if (!space || memchr(space + 1, ' ', line.size - left - 1))
            return lm_err_set(e, LM_MALFORMED, "line %zu is not two halves with a space between", number);
        if (lmi_vocab_merge(b, b->v.n_merges, lm_span_of(line.data, left),
                            lm_span_of(space + 1, line.size - left - 1), e) < 0)
            return lm_err_prefix(e, "line %zu", number);
        b->v.n_merges++;
    }
    return 0;
}

/* Files without tokenizer.json are GPT-2's own format: its regex, no normalizer. */
int lmi_vocab_merges_read(struct lmi_vocab *b, struct lm_span vocab, struct lm_span merges, struct lm_err *e)
{
    const struct lmi_pre_name *pre = lmi_pre_find(lm_span_str("gpt-2"));
    json_t *root = lm_json_parse(vocab, "vocab.json", e);

    if (!root)
        return -1;
    b->v.algo = LM_VOCAB_BYTE_BPE;
    b->v.source = "vocab.json + merges.txt";
    b->v.pre = pre->name;
    b->v.pre_pattern = lmi_pre_pattern(&b->arena, pre);
    int rc = json_is_object(root) ? read_vocab(b, root, e) : lm_err_set(e, LM_MALFORMED, "no object");
    json_decref(root);
    if (rc < 0)
        return lm_err_prefix(e, "vocab.json");
    if (!b->v.pre_pattern.data)
        return lmi_nomem_vocab(e);
    if (read_merge_lines(b, merges, e) < 0)
        return lm_err_prefix(e, "merges.txt");
    /* The end-of-text piece is no merge: it is matched as a whole. */
    uint32_t end = lmi_texts_get(&b->texts, lm_span_str("<|endoftext|>"));
    if (end != LMI_NONE) {
        b->pieces[end].kind = LM_PIECE_CONTROL;
        b->pieces[end].special = b->pieces[end].added = true;
        b->v.bos_id = b->v.eos_id = end;
    }
    return 0;
}
