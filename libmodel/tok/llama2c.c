/* tokenizer.bin: https://github.com/karpathy/llama2.c/blob/master/tokenizer.py
 *
 *   u32 bytes of the longest piece; for each piece: f32 score, u32 n, n bytes
 *
 * A SentencePiece BPE model with spaces as spaces; "<s>" and "</s>" are written
 * with newlines around them. */
#include "libmodel/tok/llama2c.h"

#include <stdio.h>
#include <stdlib.h>

#include "libmodel/tok/build.h"

enum { UNK = 0, BOS = 1, EOS = 2, N_RESERVED = 3 };

struct pieces {
    struct lm_span *texts;
    float *scores;
    int32_t *kinds;
    size_t n;
};

/* As SentencePiece stores it: U+2581 for a space. */
static int copy_text(struct lm_arena *a, struct lm_span s, struct lm_span *out)
{
    size_t mark = sizeof LMI_SPACE_MARK - 1, n = 0;
    uint8_t *text = lm_arena_alloc(a, s.size * mark + 1);

    if (!text)
        return -1;
    for (size_t i = 0; i < s.size; i++) {
        if (s.data[i] != ' ') {
            text[n++] = s.data[i];
            continue;
        }
        memcpy(text + n, LMI_SPACE_MARK, mark);
        n += mark;
    }
    *out = lm_span_of(text, n);
    return 0;
}

static bool is_byte_piece(struct lm_span s)
{
    return s.size == 6 && memcmp(s.data, "<0x", 3) == 0 && s.data[5] == '>';
}

/* 1 exactly p->n pieces, 0 some other file, -1 out of memory. */
static int read_pieces(struct pieces *p, struct lm_span file, struct lm_arena *a)
{
    static const char *const reserved[N_RESERVED] = {"<unk>", "<s>", "</s>"};
    struct lm_cursor c = lm_cursor_of(file);

    lm_cur_u32(&c);
    for (size_t i = 0; i < p->n; i++) {
        p->scores[i] = lm_cur_f32(&c);
        struct lm_span s = lm_cur_bytes(&c, lm_cur_u32(&c));
        if (c.failed || s.size == 0)
            return 0;
        p->kinds[i] = i == UNK ? LM_PIECE_UNKNOWN : i < N_RESERVED ? LM_PIECE_CONTROL
                      : is_byte_piece(s)                           ? LM_PIECE_BYTE
                                                                   : LM_PIECE_NORMAL;
        if (i < N_RESERVED)
            s = lm_span_str(reserved[i]);
        if (copy_text(a, s, &p->texts[i]) < 0)
            return -1;
    }
    return lm_cur_left(&c) == 0;
}

static int set_meta(struct lm_meta *m, const struct pieces *p)
{
    return lm_meta_set_str(m, "tokenizer.ggml.model", lm_span_str("llama")) < 0 ||
                   lm_meta_set_strs(m, "tokenizer.ggml.tokens", p->texts, p->n) < 0 ||
                   lm_meta_set_array(m, "tokenizer.ggml.scores", LM_META_F32, p->scores, p->n) < 0 ||
                   lm_meta_set_array(m, "tokenizer.ggml.token_type", LM_META_I32, p->kinds, p->n) < 0 ||
                   lm_meta_set_u32(m, "tokenizer.ggml.bos_token_id", BOS) < 0 ||
                   lm_meta_set_u32(m, "tokenizer.ggml.eos_token_id", EOS) < 0 ||
                   lm_meta_set_u32(m, "tokenizer.ggml.unknown_token_id", UNK) < 0 ||
                   lm_meta_set_bool(m, "tokenizer.ggml.add_bos_token", true) < 0 ||
                   lm_meta_set_bool(m, "tokenizer.ggml.add_eos_token", false) < 0
               ? -1
               : 0;
}

static int use_file(struct lm_model *m, struct lm_span file, const char *name, size_t n, struct lm_err *e)
{
    struct lm_arena a = {0};
    char note[300];
    struct pieces p = {.n = n};

    if (n <= N_RESERVED || n > file.size / 9) /* a piece takes nine bytes at least */
        p.n = 0;
    p.texts = lm_arena_array(&a, p.n + 1, sizeof *p.texts);
    p.scores = lm_arena_array(&a, p.n + 1, sizeof *p.scores);
    p.kinds = lm_arena_array(&a, p.n + 1, sizeof *p.kinds);
    int rc = !p.texts || !p.scores || !p.kinds ? -1 : p.n ? read_pieces(&p, file, &a) : 0;
    if (rc == 1)
        rc = set_meta(m->meta, &p) < 0 ? -1 : 1;
    snprintf(note, sizeof note, rc == 1 ? "%.100s" : "%.100s does not hold the %zu pieces of this model", name, n);
    if (rc >= 0 && lm_meta_set_str(m->meta, "llama2c.tokenizer", lm_span_str(note)) < 0)
        rc = -1;
    lm_arena_free(&a);
    return rc < 0 ? lmi_nomem(e) : rc;
}

int lmi_llama2c_tokenizer(struct lm_model *m, size_t vocab_size, struct lm_err *e)
{
    char own[40];
    const char *const names[] = {"tokenizer.bin", own};

    snprintf(own, sizeof own, "tok%zu.bin", vocab_size);
    for (int i = 0; i < 2; i++) {
        struct lm_span file;
        int rc = lm_model_sidecar(m, names[i], &file, e);
        if (rc == 1)
            rc = use_file(m, file, names[i], vocab_size, e);
        if (rc != 0)
            return rc < 0 ? -1 : 0;
    }
    return 0;
}
