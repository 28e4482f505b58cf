/* Products with weights in whatever type they are stored: straight from the
 * blocks for few tokens, through a panel decoded once for many. */
#include "gpu/cpu.h"

#define FEW 4 /* tokens for which decoding a panel does not pay */

enum path { PATH_F32, PATH_Q8, PATH_BF16 };

unsigned lmi_q8_group(enum lm_dtype t)
{
    switch (t) {
    case LM_Q4_0: case LM_Q4_1: case LM_Q5_0: case LM_Q5_1: case LM_Q8_0: case LM_Q4_K: case LM_Q5_K:
    case LM_IQ4_NL: case LM_IQ4_XS: case LM_MXFP4: return 32;
    case LM_Q2_K: case LM_Q3_K: case LM_Q6_K: return 16;
    default: return 0;
    }
}

unsigned lmi_q8_offset(enum lm_dtype t)
{
    switch (t) {
    case LM_Q8_0: case LM_IQ4_NL: case LM_IQ4_XS: case LM_MXFP4: return 128;
    case LM_Q6_K: return 32;
    case LM_Q5_0: return 16;
    case LM_Q4_0: return 8;
    case LM_Q3_K: return 4;
    default: return 0;
    }
}

static enum path path_of(const struct lm_dev *d, const struct lm_mat *m)
{
    const struct lm_tensor *t = m->tensor;

    if (d->math == LM_MATH_EXACT || m->transposed || t->big_endian || t->packed || (m->part && m->row_step != m->cols))
        return PATH_F32;
    if (lmi_q8_group(t->dtype))
        return PATH_Q8;
    return t->dtype == LM_BF16 && d->kernels->bf16_rows ? PATH_BF16 : PATH_F32;
}

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static size_t q8_bytes(const struct lm_dev *d, size_t k, size_t n)
{
    size_t tokens = d->kernels->q8_tile_tokens;
    size_t tiles = (n + tokens - 1) / tokens * d->kernels->q8_tile_bytes(k);
    size_t rows = (n < FEW ? n : FEW) * ((k + LMI_SUPER - 1) / LMI_SUPER) * sizeof(struct lmi_q8);
    return align64(tiles > rows ? tiles : rows);
}

static size_t bf16_bytes(const struct lm_dev *d, size_t k, size_t n)
{
    size_t tokens = d->kernels->bf16_tile_tokens;
    size_t tiles = tokens ? (n + tokens - 1) / tokens * d->kernels->bf16_tile_bytes(k) : 0;
    size_t rows = tokens ? (n < FEW ? n : FEW) * 2 * k : 0;
    return align64(tiles > rows ? tiles : rows);
}

size_t lmi_acts_bytes(const struct lm_dev *d, size_t k, size_t n)
{
    return d->math == LM_MATH_EXACT ? 0 : q8_bytes(d, k, n) + bf16_bytes(d, k, n);
}

size_t lmi_panel_bytes(const struct lm_dev *d, const struct lm_mat *m)
{
    size_t k = m->cols;

    switch (m->tensor ? path_of(d, m) : PATH_Q8) {
    case PATH_Q8: return m->tensor ? d->kernels->q8_panel_bytes(k) : 0;
    case PATH_BF16: return d->kernels->bf16_gemm ? d->kernels->bf16_panel_bytes(k) : LMI_PANEL_ROWS * k * sizeof(float);
    default: return (m->transposed ? LMI_ROWS : LMI_PANEL_ROWS) * k * sizeof(float);
    }
}

/* ---- inputs */

struct token_tiles {
    const struct lmi_acts *a;
    uint8_t *tiles;
    size_t tokens, bytes;
    void (*fill)(uint8_t *tile, const float *x, size_t ldx, size_t n, size_t k);
};

static void fill_tile(const void *what, size_t i, int thread)
{
    const struct token_tiles *t = what;
    const struct lmi_acts *a = t->a;

    (void)thread;
    t->fill(t->tiles + i * t->bytes, a->x + i * t->tokens * a->ldx, a->ldx, a->n - i * t->tokens, a->k);
}

static void for_token_tiles(struct lm_dev *d, const struct lmi_acts *a, uint8_t *tiles, size_t tokens, size_t bytes,
                            void (*fill)(uint8_t *tile, const float *x, size_t ldx, size_t n, size_t k))
{
    lmi_pool_for(d->pool, (a->n + tokens - 1) / tokens, false, fill_tile,
                 &(struct token_tiles){a, tiles, tokens, bytes, fill});
}

static void prepare_q8(struct lm_dev *d, struct lmi_acts *a)
{
    const struct lmi_kernels *kn = d->kernels;
    size_t n_super = (a->k + LMI_SUPER - 1) / LMI_SUPER;

    if (a->n <= FEW) {
        a->q8 = (struct lmi_q8 *)(void *)d->acts;
        for (size_t t = 0; t < a->n; t++)
            kn->quantize(a->q8 + t * n_super, a->x + t * a->ldx, a->k);
        return;
    }
    a->q8_tiles = d->acts;
    for_token_tiles(d, a, a->q8_tiles, kn->q8_tile_tokens, kn->q8_tile_bytes(a->k), kn->quantize_tile);
}

static void prepare_bf16(struct lm_dev *d, struct lmi_acts *a)
{
    const struct lmi_kernels *kn = d->kernels;

    if (!kn->bf16_gemm)
        return;
    uint8_t *to = d->acts + q8_bytes(d, a->k, a->n);
    if (a->n <= FEW) {
        a->bf16 = to;
        for (size_t t = 0; t < a->n; t++)
            kn->bf16_round(to + t * 2 * a->k, a->x + t * a->ldx, a->k);
        return;
    }
    a->bf16_tiles = to;
    for_token_tiles(d, a, to, kn->bf16_tile_tokens, kn->bf16_tile_bytes(a->k), kn->bf16_tile);
}

void lmi_acts_prepare(struct lm_dev *d, struct lmi_acts *a, const float *x, size_t ldx, size_t n,
                      const struct lm_mat *const *mats, size_t n_mats)
{
    unsigned paths = 0;

    *a = (struct lmi_acts){.x = x, .ldx = ldx, .n = n, .k = mats[0]->cols};
    if (d->watch)
        d->watch(d->watcher, mats, n_mats, x, ldx, n);
    for (size_t i = 0; i < n_mats; i++)
        paths |= 1u << path_of(d, mats[i]);
    if (paths & 1u << PATH_Q8)
        prepare_q8(d, a);
    if (paths & 1u << PATH_BF16)
        prepare_bf16(d, a);
}

/* ---- weights to f32 */

static size_t row_bytes(const struct lm_mat *m)
{
    return (size_t)lm_dtype_bytes(m->tensor->dtype, m->cols);
}

/* n values from element `first` (both whole blocks): the engine has made sure that the type can be decoded. */
static void decode(const struct lm_tensor *t, size_t first, size_t n, float *out)
{
    const struct lm_dtype_info *i = lm_dtype_info(t->dtype);

    if (t->big_endian || t->packed)
        lm_tensor_to_f32(t, first, n, out, NULL);
    else
        i->to_f32(out, t->data + first / i->block_elems * i->block_bytes, n);
}

static size_t row_start(const struct lm_mat *m, size_t r)
{
    return m->part ? m->at + r * m->row_step : r * m->cols;
}

/* Rows of whole blocks from r on. */
static const uint8_t *row_bytes_at(const struct lm_mat *m, size_t r)
{
    const struct lm_dtype_info *i = lm_dtype_info(m->tensor->dtype);
    return m->tensor->data + row_start(m, r) / i->block_elems * i->block_bytes;
}

void lmi_mat_row(const struct lm_mat *m, size_t r, float *out)
{
    decode(m->tensor, row_start(m, r), m->cols, out);
}

/* Rows r0 .. of one stored column: neighbours, or every second element. */
static void decode_column(const struct lm_mat *m, size_t c, size_t r0, size_t rows, float *out)
{
    size_t step = m->part ? m->row_step : 1, at = m->part ? m->at + c * m->col_step : c * m->rows;
    float v[2 * LMI_ROWS];

    if (step == 1) {
        decode(m->tensor, at + r0, rows, out);
    } else if (step == 2) {
        decode(m->tensor, at + 2 * r0, 2 * rows - 1, v);
        for (size_t r = 0; r < rows; r++)
            out[r] = v[2 * r];
    } else {
        for (size_t r = 0; r < rows; r++)
            decode(m->tensor, at + (r0 + r) * step, 1, out + r);
    }
}

/* Stored [cols, rows]: sixteen stored rows at a time, so that both sides move in runs. */
static void decode_transposed(const struct lm_mat *m, size_t r0, size_t rows, float *panel)
{
    float v[16][LMI_ROWS];

    for (size_t c = 0; c < m->cols; c += 16) {
        size_t n = m->cols - c < 16 ? m->cols - c : 16;
        for (size_t i = 0; i < n; i++)
            decode_column(m, c + i, r0, rows, v[i]);
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < n; i++)
                panel[r * m->cols + c + i] = v[i][r];
    }
}

static bool usable_in_place(const struct lm_tensor *t)
{
    return t->dtype == LM_F32 && !t->big_endian && !t->packed && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ &&
           (uintptr_t)t->data % sizeof(float) == 0;
}

static void tile_f32(const struct lm_dev *d, const struct lm_mat *m, const struct lmi_acts *a, size_t r0, size_t rows,
                     float *y, size_t ldy, float *panel)
{
    size_t k = m->cols;

    if (m->transposed) {
        decode_transposed(m, r0, rows, panel);
        d->kernels->dot_f32(y, ldy, panel, k, rows, a->x, a->ldx, a->n, k);
        return;
    }
    for (size_t r = 0; r < rows; r += LMI_PANEL_ROWS) {
        size_t n = rows - r < LMI_PANEL_ROWS ? rows - r : LMI_PANEL_ROWS;
        const float *w = panel;
        if (usable_in_place(m->tensor))
            w = (const float *)(const void *)m->tensor->data + row_start(m, r0 + r);
        else if (m->tensor->packed && (!m->part || m->row_step == k))
            decode(m->tensor, row_start(m, r0 + r), n * k, panel); /* neighbours together: some are packed across rows */
        else
            for (size_t i = 0; i < n; i++)
                lmi_mat_row(m, r0 + r + i, panel + i * k);
        d->kernels->dot_f32(y + r, ldy, w, w != panel && m->part ? m->row_step : k, n, a->x, a->ldx, a->n, k);
    }
}

/* ---- one tile */

static void tile_q8(const struct lm_dev *d, const struct lm_mat *m, const struct lmi_acts *a, size_t r0, size_t rows,
                    float *y, size_t ldy, uint8_t *panel)
{
    size_t bytes = row_bytes(m), n_super = (a->k + LMI_SUPER - 1) / LMI_SUPER;
    const uint8_t *w = row_bytes_at(m, r0);

    if (a->q8)
        for (size_t t = 0; t < a->n; t++)
            d->kernels->q8_rows(m->tensor->dtype, y + t * ldy, w, bytes, rows, a->q8 + t * n_super, a->k);
    else
        d->kernels->q8_gemm(m->tensor->dtype, y, ldy, w, bytes, rows, a, panel);
}

static void tile_bf16(const struct lm_dev *d, const struct lm_mat *m, const struct lmi_acts *a, size_t r0, size_t rows,
                      float *y, size_t ldy, uint8_t *panel)
{
    const uint8_t *w = row_bytes_at(m, r0);

    if (a->bf16_tiles)
        d->kernels->bf16_gemm(y, ldy, w, rows, a, panel);
    else if (a->bf16)
        for (size_t t = 0; t < a->n; t++)
            d->kernels->bf16_few(y + t * ldy, w, rows, a->bf16 + t * 2 * a->k, a->k);
    else if (a->n <= FEW)
        for (size_t t = 0; t < a->n; t++)
            d->kernels->bf16_rows(y + t * ldy, w, rows, a->x + t * a->ldx, a->k);
    else
        tile_f32(d, m, a, r0, rows, y, ldy, (float *)(void *)panel);
}

void lmi_mat_tile(struct lm_dev *d, const struct lm_mat *m, const struct lmi_acts *a, size_t r0, size_t rows, float *y,
                  size_t ldy, struct lmi_thread *t)
{
    switch (path_of(d, m)) {
    case PATH_Q8: tile_q8(d, m, a, r0, rows, y, ldy, t->panel); break;
    case PATH_BF16: tile_bf16(d, m, a, r0, rows, y, ldy, t->panel); break;
    default: tile_f32(d, m, a, r0, rows, y, ldy, (float *)(void *)t->panel); break;
    }
    if (m->bias)
        for (size_t i = 0; i < a->n; i++)
            for (size_t r = 0; r < rows; r++)
                y[i * ldy + r] += m->bias[r0 + r];
}
