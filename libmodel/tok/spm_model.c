/* SentencePiece's tokenizer.model: a protobuf message.
 *   ModelProto      1 pieces (repeated), 2 trainer_spec, 3 normalizer_spec, 4 self_test_data, 5 denormalizer_spec
 *   SentencePiece   1 piece, 2 score, 3 type (the numbers of enum lm_piece_kind)
 *   TrainerSpec     3 model_type (1 unigram, 2 bpe, 3 word, 4 char), 24 treat_whitespace_as_suffix,
 *                   35 byte_fallback, 40-43 unk/bos/eos/pad id, 45-48 unk/bos/eos/pad piece
 *   NormalizerSpec  1 name, 2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces,
 *                   5 escape_whitespaces
 * Defaults count: a file without normalizer_spec adds the prefix, a missing model_type is unigram. Only a
 * missing trainer_spec is refused.
 * Pieces may hold NUL. Self-test data and the trainer's other fields are skipped: they do not change ids.
 * https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto */
#include "libmodel/tok/write.h"

#include <ctype.h>

enum { UNIGRAM = 1, BPE = 2, WORD = 3, CHAR = 4 };

struct spec {
    uint64_t model_type;
    bool trainer, byte_fallback, whitespace_as_suffix, denormalizer;
    struct lm_span bos_piece, eos_piece, pad_piece;
};

static int read_piece(struct lmi_vocab *b, struct lm_span message, struct lm_err *e)
{
    size_t id = b->v.n_pieces;
    struct lm_piece *p = lmi_vocab_piece(b, id);
    struct lm_cursor c = lm_cursor_of(message);
    struct lmi_pb_field f;
    struct lm_span text = {0};
    int rc;

    if (!p)
        return lmi_nomem_vocab(e);
    *p = (struct lm_piece){.kind = LM_PIECE_NORMAL, .in_model = true};
    while ((rc = lmi_pb_next(&c, &f, e)) > 0) {
        if (f.number == 1 && (rc = lmi_pb_expect(&f, LMI_PB_BYTES, e)) == 0)
            text = f.bytes;
        else if (f.number == 2 && (rc = lmi_pb_expect(&f, LMI_PB_32BIT, e)) == 0)
            p->score = lmi_pb_float(&f);
        else if (f.number == 3 && (rc = lmi_pb_expect(&f, LMI_PB_VARINT, e)) == 0) {
            if (f.value < LM_PIECE_NORMAL || f.value > LM_PIECE_BYTE)
                return lm_err_set(e, LM_MALFORMED, "piece %zu has type %llu, expected 1 to 6", id,
                                  (unsigned long long)f.value);
            p->kind = (enum lm_piece_kind)f.value;
        }
        if (rc < 0)
            break;
    }
    if (rc < 0)
        return lm_err_prefix(e, "piece %zu", id);
    if (text.size == 0)
        return lm_err_set(e, LM_MALFORMED, "piece %zu is empty", id);
    p->special = p->kind == LM_PIECE_CONTROL;
    p->text = lmi_vocab_copy(b, text);
    return p->text.data ? 0 : lmi_nomem_vocab(e);
}

/* A field of a known number and the wrong wire type is malformed, an unknown
 * number is skipped: that is how protobuf grows. */
static int read_trainer(struct spec *s, struct lm_span message, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(message);
    struct lmi_pb_field f;
    int rc;

    s->trainer = true;
    while ((rc = lmi_pb_next(&c, &f, e)) > 0) {
        bool number = f.number == 3 || f.number == 24 || f.number == 35, text = f.number >= 46 && f.number <= 48;
        if ((number && lmi_pb_expect(&f, LMI_PB_VARINT, e) < 0) || (text && lmi_pb_expect(&f, LMI_PB_BYTES, e) < 0))
            return -1;
        if (f.number == 3)
            s->model_type = f.value;
        else if (f.number == 24)
            s->whitespace_as_suffix = f.value != 0;
        else if (f.number == 35)
            s->byte_fallback = f.value != 0;
        else if (f.number == 46)
            s->bos_piece = f.bytes;
        else if (f.number == 47)
            s->eos_piece = f.bytes;
        else if (f.number == 48)
            s->pad_piece = f.bytes;
    }
    return rc;
}

static int read_normalizer(struct lmi_vocab *b, struct lm_span message, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(message);
    struct lmi_pb_field f;
    int rc;

    while ((rc = lmi_pb_next(&c, &f, e)) > 0) {
        if ((f.number == 2 && lmi_pb_expect(&f, LMI_PB_BYTES, e) < 0) ||
            (f.number >= 3 && f.number <= 5 && lmi_pb_expect(&f, LMI_PB_VARINT, e) < 0))
            return -1;
        if (f.number == 2)
            b->v.charsmap = lmi_vocab_copy(b, f.bytes);
        else if (f.number == 3)
            b->v.add_dummy_prefix = f.value != 0;
        else if (f.number == 4)
            b->v.remove_extra_whitespaces = f.value != 0;
        else if (f.number == 5)
            b->v.escape_whitespaces = f.value != 0;
        if (f.number == 2 && !b->v.charsmap.data)
            return lmi_nomem_vocab(e);
    }
    return rc;
}

/* Does the denormalizer change text (a rule set of its own)? */
static int read_denormalizer(struct spec *s, struct lm_span message, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(message);
    struct lmi_pb_field f;
    int rc;

    while ((rc = lmi_pb_next(&c, &f, e)) > 0)
        s->denormalizer |= f.number == 2 && f.bytes.size > 0;
    return rc;
}

static int read_model(struct lmi_vocab *b, struct spec *s, struct lm_span file, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(file);
    struct lmi_pb_field f;
    int rc;

    while ((rc = lmi_pb_next(&c, &f, e)) > 0) {
        if (f.number <= 5 && f.number != 4 && lmi_pb_expect(&f, LMI_PB_BYTES, e) < 0)
            return -1;
        if ((f.number == 1 && read_piece(b, f.bytes, e) < 0) || (f.number == 2 && read_trainer(s, f.bytes, e) < 0) ||
            (f.number == 3 && read_normalizer(b, f.bytes, e) < 0) ||
            (f.number == 5 && read_denormalizer(s, f.bytes, e) < 0))
            return -1;
    }
    return rc;
}

static const enum lm_vocab_algo algo_of_type[] = {
    [UNIGRAM] = LM_VOCAB_UNIGRAM, [BPE] = LM_VOCAB_SPM_BPE, [WORD] = LM_VOCAB_SPM_WORD, [CHAR] = LM_VOCAB_SPM_CHAR};

static int type_of_algo(enum lm_vocab_algo algo)
{
    int type = CHAR;

    while (type > UNIGRAM && algo_of_type[type] != algo)
        type--;
    return type;
}

static int check_kind(const struct spec *s, struct lm_err *e)
{
    /* Legal protobuf, but no model is written so: a file that was cut short. */
    if (!s->trainer)
        return lm_err_set(e, LM_MALFORMED, "there is no trainer_spec: this SentencePiece model is cut short");
    if (s->model_type < UNIGRAM || s->model_type > CHAR)
        return lm_err_set(e, LM_MALFORMED, "model_type is %llu, expected 1 (Unigram) to 4 (Char)",
                          (unsigned long long)s->model_type);
    if (s->denormalizer)
        return lm_err_set(e, LM_UNSUPPORTED, "this SentencePiece model has a denormalizer, which is not handled");
    return 0;
}

/* The library's own checks: one unk (or byte pieces for all that is unknown), all 256 bytes or none, no text twice. */
static int check_pieces(struct lmi_vocab *b, const struct spec *s, struct lm_err *e)
{
    bool seen[256] = {false};
    size_t n_bytes = 0;

    for (size_t i = 0; i < b->v.n_pieces; i++) {
        const struct lm_piece *p = &b->pieces[i];
        int byte = p->kind == LM_PIECE_BYTE ? lmi_byte_piece(p->text) : -1;
        if (p->kind == LM_PIECE_UNKNOWN && b->v.unk_id >= 0)
            return lm_err_set(e, LM_MALFORMED, "pieces %lld and %zu are both UNKNOWN, expected one",
                              (long long)b->v.unk_id, i);
        if (p->kind == LM_PIECE_UNKNOWN)
            b->v.unk_id = (int64_t)i;
        if (byte >= 0 && !seen[byte]) {
            seen[byte] = true;
            n_bytes++;
        }
    }
    if (b->v.unk_id < 0 && !s->byte_fallback)
        return lm_err_set(e, LM_MALFORMED, "no piece is UNKNOWN, expected one");
    if (n_bytes != (s->byte_fallback ? 256 : 0))
        return lm_err_set(e, LM_MALFORMED, "%zu of 256 byte pieces are there and byte_fallback is %s", n_bytes,
                          s->byte_fallback ? "on" : "off");
    return 0;
}

/* Reserved pieces (CONTROL, UNKNOWN, BYTE) and the others are two name spaces. */
static int check_unique(const struct lmi_vocab *b, struct lm_err *e)
{
    struct lmi_texts seen[2] = {{0}};
    int rc = 0;

    if (!lmi_texts_init(&seen[0], b->v.n_pieces) || !lmi_texts_init(&seen[1], b->v.n_pieces))
        rc = lmi_nomem_vocab(e);
    for (size_t i = 0; i < b->v.n_pieces && rc == 0; i++) {
        const struct lm_piece *p = &b->pieces[i];
        bool reserved = p->kind == LM_PIECE_CONTROL || p->kind == LM_PIECE_UNKNOWN || p->kind == LM_PIECE_BYTE;
        if (!lmi_texts_put(&seen[reserved], p->text, (uint32_t)i))
            rc = lm_err_set(e, LM_MALFORMED, "piece %zu has the text of piece %u", i,
                            lmi_texts_get(&seen[reserved], p->text));
    }
    lmi_texts_free(&seen[0]);
    lmi_texts_free(&seen[1]);
    return rc;
}

static int64_t control_id(const struct lmi_vocab *b, struct lm_span text)
{
    for (size_t i = 0; i < b->v.n_pieces; i++)
        if (b->pieces[i].kind == LM_PIECE_CONTROL && lm_span_eq(b->pieces[i].text, text))
            return (int64_t)i;
    return -1;
}

/* Llama-3 and others call a list of tiktoken ranks tokenizer.model too. */
static bool looks_like_tiktoken(struct lm_span file)
{
    size_t i = 0;

    while (i < file.size && i < 400 && (isalnum(file.data[i]) || memchr("+/=", file.data[i], 3)))
        i++;
    return i > 0 && i + 1 < file.size && file.data[i] == ' ' && isdigit(file.data[i + 1]);
}

int lmi_spm_read(struct lmi_vocab *b, struct lm_span file, struct lm_err *e)
{
    struct spec s = {.model_type = UNIGRAM, .bos_piece = lm_span_str("<s>"), .eos_piece = lm_span_str("</s>"),
                     .pad_piece = lm_span_str("<pad>")};

    if (looks_like_tiktoken(file))
        return lm_err_set(e, LM_UNSUPPORTED, "this is a list of tiktoken ranks, not a SentencePiece model; "
                                             "use the tokenizer.json of the same model");
    b->v.source = "tokenizer.model";
    b->v.add_dummy_prefix = b->v.remove_extra_whitespaces = b->v.escape_whitespaces = b->v.fuse_unk = true;
    if (read_model(b, &s, file, e) < 0)
        return -1;
    if (b->v.n_pieces == 0)
        return lm_err_set(e, LM_MALFORMED, "no pieces: this is no SentencePiece model");
    if (check_kind(&s, e) < 0 || check_pieces(b, &s, e) < 0 || check_unique(b, e) < 0)
        return -1;
    b->v.algo = algo_of_type[s.model_type];
    b->v.whitespace_as_suffix = s.whitespace_as_suffix;
    b->v.byte_fallback = s.byte_fallback;
    b->v.bos_id = control_id(b, s.bos_piece);
    b->v.eos_id = control_id(b, s.eos_piece);
    b->v.pad_id = control_id(b, s.pad_piece);
    b->v.prefix_every_part = true;
    b->v.add_bos = b->v.bos_id >= 0;
    b->v.add_eos = b->v.bos_id < 0 && b->v.eos_id >= 0; /* T5 */
    return 0;
}

/* ---- writer */

static void put_id(struct lmi_buf *trainer, uint32_t number, int64_t id)
{
    lmi_pb_put_uint(trainer, number, (uint64_t)id); /* -1 as protobuf's int32 does it: ten bytes */
}

static void put_text(struct lmi_buf *trainer, uint32_t number, const struct lm_vocab *v, int64_t id)
{
    if (id >= 0)
        lmi_pb_put_bytes(trainer, number, v->pieces[id].text);
}

static void put_trainer(struct lmi_buf *out, const struct lm_vocab *v, size_t n)
{
    struct lmi_buf t = {0};

    lmi_pb_put_uint(&t, 3, (uint64_t)type_of_algo(v->algo));
    lmi_pb_put_uint(&t, 4, n);
    if (v->whitespace_as_suffix)
        lmi_pb_put_uint(&t, 24, 1);
    lmi_pb_put_uint(&t, 35, v->byte_fallback);
    put_id(&t, 40, v->unk_id);
    put_id(&t, 41, v->bos_id);
    put_id(&t, 42, v->eos_id);
    put_id(&t, 43, v->pad_id);
    put_text(&t, 45, v, v->unk_id);
    put_text(&t, 46, v, v->bos_id);
    put_text(&t, 47, v, v->eos_id);
    put_text(&t, 48, v, v->pad_id);
    lmi_pb_put_bytes(out, 2, lm_span_of(t.data, t.n));
    out->failed |= t.failed;
    lmi_buf_free(&t);
}

static void put_normalizer(struct lmi_buf *out, const struct lm_vocab *v)
{
    struct lmi_buf n = {0};

    lmi_pb_put_bytes(&n, 1, lm_span_str(v->charsmap.size ? "user_defined" : "identity"));
    lmi_pb_put_bytes(&n, 2, v->charsmap);
    lmi_pb_put_uint(&n, 3, v->add_dummy_prefix || v->add_prefix_space);
    lmi_pb_put_uint(&n, 4, v->remove_extra_whitespaces);
    lmi_pb_put_uint(&n, 5, v->escape_whitespaces);
    lmi_pb_put_bytes(out, 3, lm_span_of(n.data, n.n));
    out->failed |= n.failed;
    lmi_buf_free(&n);
}

/* A piece's text with ' ' as U+2581, the way SentencePiece stores user-defined
 * symbols (GGUF holds them with spaces). */
static void put_piece(struct lmi_buf *out, struct lmi_buf *p, struct lmi_buf *text, const struct lm_vocab *v,
                      const struct lm_piece *piece)
{
    p->n = text->n = 0;
    for (size_t i = 0; i < piece->text.size; i++) {
        if (piece->text.data[i] == ' ' && lmi_vocab_of(v)->spaced && piece->kind == LM_PIECE_USER_DEFINED)
            lmi_buf_str(text, LMI_SPACE_MARK);
        else
            lmi_buf_add(text, &piece->text.data[i], 1);
    }
    lmi_pb_put_bytes(p, 1, lm_span_of(text->data, text->n));
    lmi_pb_put_float(p, 2, piece->score);
    if (piece->kind != LM_PIECE_NORMAL)
        lmi_pb_put_uint(p, 3, piece->kind);
    lmi_pb_put_bytes(out, 1, lm_span_of(p->data, p->n));
}

void lmi_spm_write(struct lmi_buf *out, const struct lm_vocab *v)
{
    struct lmi_buf piece = {0}, text = {0};
    size_t n = v->n_pieces;

    while (n > 0 && !v->pieces[n - 1].in_model) /* tokenizer_config.json adds them again */
        n--;
    for (size_t i = 0; i < n; i++)
        put_piece(out, &piece, &text, v, &v->pieces[i]);
    out->failed |= piece.failed | text.failed;
    lmi_buf_free(&piece);
    lmi_buf_free(&text);
    put_trainer(out, v, n);
    put_normalizer(out, v);
}
