/* Private to the cpu backend: its instance, the forms activations take, and the
 * table of kernels that each instruction set provides. */
#ifndef GPU_CPU_H
#define GPU_CPU_H

#include "gpu/backend.h"
#include "gpu/cpu_pool.h"

#define LMI_SUPER 256    /* columns that the int8 kernels take at a time */
#define LMI_ROWS 32      /* weight rows of one task */
#define LMI_PANEL_ROWS 8 /* weight rows decoded to f32 at a time */
#define LMI_LANES 16     /* keys interleaved in the K cache; partial sums of an f32 product */

/* 256 activations rounded to int8, one scale per group of 32. Sums of q come
 * from integers and are exact, so only what follows has an order: see cpu_blocks.h. */
struct lmi_q8 {
    int8_t q[LMI_SUPER];
    float d[8];
    int32_t sum[8];   /* of q over each group */
    int32_t half[16]; /* the same of the first 16 of each, then of the last 16 */
    /* For weights used in the order in which nibbles lie (AVX-512 only): groups
     * 0 2 1 3 4 6 5 7; and the first halves of groups 0-3, their second halves, the same of groups 4-7. */
    int8_t pairs[LMI_SUPER], halves[LMI_SUPER];
};

/* The inputs of one product, n tokens of k columns, in the forms its weights need. */
struct lmi_acts {
    const float *x; /* [n, ldx] */
    size_t ldx, n, k;
    struct lmi_q8 *q8; /* [n, n_super], when there are few tokens */
    uint8_t *q8_tiles; /* [n_tiles] of kernels->q8_tile_bytes(k), else */
    uint8_t *bf16;     /* [n, k], when there are few tokens */
    uint8_t *bf16_tiles;
};

/* Products write y[t * ldy + r]. Reading past k or past `rows` never happens. A
 * result does not depend on which other rows and tokens are computed with it, nor
 * on whether the kernel for few tokens or for many is taken. */
struct lmi_kernels {
    const char *name;

    /* f32 product; per output 16 partial sums (columns mod 16), fused
     * multiply-add where the machine has it, summed as a tree: the result does
     * not depend on rows or n. */
    void (*dot_f32)(float *y, size_t ldy, const float *w, size_t ldw, size_t rows, const float *x, size_t ldx,
                    size_t n, size_t k);

    /* Attention. k is [n_blocks][d][16], s [rows][lds]; v is [n_keys][d_pad]
     * with d_pad a multiple of 16. Sums run over d, and over keys, in order. */
    void (*scores)(float *s, size_t lds, const float *q, size_t ldq, size_t rows, size_t d, const float *k,
                   size_t n_blocks);
    void (*mix)(float *o, size_t ldo, const float *p, size_t ldp, size_t rows, const float *v, size_t d_pad,
                size_t n_keys);

    /* LM_MATH_FAST only: exp to about 2e-7. */
    double (*exp_row)(float *s, size_t n, float max); /* s = exp(s - max); their sum */
    void (*silu)(float *x, size_t n);
    void (*gelu)(float *x, size_t n);

    /* int8 products. quantize_tile takes up to q8_tile_tokens tokens. */
    size_t q8_tile_tokens;
    size_t (*q8_tile_bytes)(size_t k);
    size_t (*q8_panel_bytes)(size_t k);
    void (*quantize)(struct lmi_q8 *q, const float *x, size_t k);
    void (*quantize_tile)(uint8_t *tile, const float *x, size_t ldx, size_t n, size_t k);
    void (*q8_rows)(enum lm_dtype t, float *y, const uint8_t *w, size_t row_bytes, size_t rows, const struct lmi_q8 *a,
                    size_t k);
    void (*q8_gemm)(enum lm_dtype t, float *y, size_t ldy, const uint8_t *w, size_t row_bytes, size_t rows,
                    const struct lmi_acts *a, uint8_t *panel);

    /* bf16 weights, f32 activations, without a panel; NULL: through dot_f32. */
    void (*bf16_rows)(float *y, const uint8_t *w, size_t rows, const float *x, size_t k);
    /* bf16 weights and activations, for few tokens (x as bf16_round leaves it) and many; NULL: the above. */
    void (*bf16_round)(uint8_t *out, const float *x, size_t k);
    void (*bf16_few)(float *y, const uint8_t *w, size_t rows, const uint8_t *x, size_t k);
    size_t bf16_tile_tokens;
    size_t (*bf16_tile_bytes)(size_t k);
    size_t (*bf16_panel_bytes)(size_t k);
    void (*bf16_tile)(uint8_t *tile, const float *x, size_t ldx, size_t n, size_t k);
    void (*bf16_gemm)(float *y, size_t ldy, const uint8_t *w, size_t rows, const struct lmi_acts *a, uint8_t *panel);
};

extern const struct lmi_kernels lmi_kernels_portable, lmi_kernels_avx2, lmi_kernels_avx512, lmi_kernels_avx512bf16;
/* The kernels for this machine, or by name ("portable", "avx2", "avx512-vnni",
 * "avx512-bf16"); NULL when the machine lacks them. */
const struct lmi_kernels *lmi_kernels_find(const char *name);

/* Block types with an int8 product: elements per group (16 or 32), 0 for others. */
unsigned lmi_q8_group(enum lm_dtype t);
/* What their unsigned q exceeds the level by; 0: they have minima. */
unsigned lmi_q8_offset(enum lm_dtype t);

/* Everything a thread writes besides results; never shared. */
struct lmi_thread {
    uint8_t *panel;  /* decoded weights */
    float *tile;     /* [n, LMI_ROWS] second operand of a gated FFN */
    float *scores;   /* [attend_rows, lds] */
    float *heads;    /* queries and outputs of an attention task */
};

struct lm_dev {
    struct lm_net *net;
    const struct lmi_kernels *kernels;
    enum lm_math math;
    int n_threads;
    struct lmi_pool *pool;
    size_t attend_rows, lds;     /* attention task size; stride of scores */
    size_t d_v_pad, d_task_pad;  /* d_v, and the larger of d_k and d_v, up to 16 */
    size_t panel_bytes;
    size_t n_cap;      /* tokens that the scratch is sized for */
    float *norm;       /* [n, d] */
    float *wide;       /* [n, widest product] */
    float *out;        /* [n, d] what joins the residual stream after a norm or scale; experts */
    uint8_t *acts;     /* int8 and bf16 forms of the inputs */
    struct lmi_moe *moe; /* NULL: no experts */
    struct lmi_thread *threads;
    lm_watch_fn *watch;  /* NULL: nobody looks */
    void *watcher;
};

struct lm_buf {
    float *data;
    size_t n;
};

/* Scratch for experts (cpu_moe.c). */
struct lmi_moe {
    float *logits;        /* [n, n_experts] */
    float *gather;        /* [n, d] inputs of one expert */
    float *parts;         /* [n, n_experts_used, d] what the chosen of each token gave, best first */
    double *weights;      /* [n, n_experts_used] */
    uint32_t *chosen;     /* the same */
    uint32_t *slots;      /* [n] places in parts of one expert's tokens */
    double *doubles;      /* [n_threads, 4 n_experts] */
};

/* k: [layer][kv head][position / 16][d_k][position % 16];
 * v: [layer][kv head][position][d_v_pad], zero beyond d_v. */
struct lm_kv {
    float *k, *v;
    size_t k_bytes, v_bytes;
    size_t ctx_pad;
};
static inline float *lmi_k_at(const struct lm_dev *d, const struct lm_kv *kv, size_t layer, size_t head, size_t pos)
{
    size_t dk = d->net->d_k, base = (layer * d->net->n_kv + head) * kv->ctx_pad * dk;
    return kv->k + base + pos / LMI_LANES * LMI_LANES * dk + pos % LMI_LANES;
}
static inline float *lmi_v_at(const struct lm_dev *d, const struct lm_kv *kv, size_t layer, size_t head, size_t pos)
{
    return kv->v + ((layer * d->net->n_kv + head) * kv->ctx_pad + pos) * d->d_v_pad;
}

/* lm_backend_cpu.open with kernels of the caller's choice. */
int lmi_cpu_open(struct lm_dev **out, struct lm_net *net, const struct lm_backend_options *o,
                 const struct lmi_kernels *kernels, struct lm_err *e);
/* n * size bytes aligned to 64, not cleared; NULL when out of memory. */
void *lmi_cpu_alloc(size_t n, size_t size);
/* Scratch for n tokens a call; grows only. */
int lmi_cpu_reserve(struct lm_dev *d, size_t n, struct lm_err *e);

/* ---- products (cpu_matmul.c) */

/* Fills a with x [n, ldx] in every form that the n_mats matrices need. */
void lmi_acts_prepare(struct lm_dev *d, struct lmi_acts *a, const float *x, size_t ldx, size_t n,
                      const struct lm_mat *const *mats, size_t n_mats);
/* Bytes of lm_dev.acts for n tokens of k columns, of lmi_thread.panel for a matrix. */
size_t lmi_acts_bytes(const struct lm_dev *d, size_t k, size_t n);
size_t lmi_panel_bytes(const struct lm_dev *d, const struct lm_mat *m);
/* Row r of a matrix that is not transposed, as f32 [cols]. */
void lmi_mat_row(const struct lm_mat *m, size_t r, float *out);
/* Rows r0 .. r0+rows-1 (at most LMI_ROWS) for every token, with bias. */
void lmi_mat_tile(struct lm_dev *d, const struct lm_mat *m, const struct lmi_acts *a, size_t r0, size_t rows, float *y,
                  size_t ldy, struct lmi_thread *t);

/* ---- the parts of operations (cpu_attend.c) */
int lmi_cpu_attend(struct lm_dev *d, uint32_t layer, const struct lm_buf *q, const struct lm_kv *kv, struct lm_buf *out,
                   size_t n, size_t pos0, float *probs, struct lm_err *e);
/* Norms and rotates the q and k rows of wide [n, Q + 2 KV] and stores q, K and V. */
void lmi_cpu_store_qkv(struct lm_dev *d, uint32_t layer, struct lm_buf *q, struct lm_kv *kv, size_t n, size_t pos0);

/* x [d_rope] of a layer, in place. */
void lmi_cpu_rotate(const struct lm_dev *d, const struct lm_layer_weights *w, float *x, size_t pos);
/* One position's k [d_k] and v [d_v] of a head. */
void lmi_cpu_store_kv(const struct lm_dev *d, struct lm_kv *kv, size_t layer, size_t head, size_t pos, const float *k,
                      const float *v);

/* ---- shared by the files of operations (cpu_ops.c) */
struct lmi_job { const struct lm_mat *m; float *y; }; /* y [n, ldy] */
/* Results of several matrices of one input, side by side. */
void lmi_cpu_products(struct lm_dev *d, const struct lmi_job *jobs, size_t n_jobs, const struct lmi_acts *a,
                      size_t ldy);
/* h [n, up->rows] = act(gate x) * (up x), or act(up x) when gate is NULL. */
void lmi_cpu_hidden(struct lm_dev *d, const struct lm_mat *gate, const struct lm_mat *up, const struct lmi_acts *a,
                    float *h);
/* out = norm of x [n] by w and b; sums in double, in a fixed order. */
void lmi_cpu_norm(const struct lm_config *c, float *out, const float *x, size_t n, const struct lm_vec *w,
                  const struct lm_vec *b);
/* Norm of all rows into d->norm; x itself where there is none. */
const float *lmi_cpu_norm_rows(struct lm_dev *d, const float *x, size_t n, const struct lm_vec *w,
                               const struct lm_vec *b);
/* cpu_moe.c: d->out [n, d] = what the experts of a layer make of in [n, d]. */
void lmi_cpu_experts(struct lm_dev *d, const struct lm_layer_weights *w, const float *in, size_t n);
struct lmi_moe *lmi_moe_new(const struct lm_dev *d, size_t n); /* NULL: out of memory */
void lmi_moe_free(struct lmi_moe *m);
/* cpu_mla.c: latent attention's qkv, and the values of its heads, wide [n, n_heads d_head_v], from a [n, A]. */
void lmi_cpu_latent_qkv(struct lm_dev *d, uint32_t layer, const float *in, struct lm_buf *q, struct lm_kv *kv, size_t n,
                        size_t pos0);
void lmi_cpu_latent_values(struct lm_dev *d, const struct lm_layer_weights *w, const float *a, size_t n);

/* ---- operations (cpu_ops.c) */
int lmi_cpu_embed(struct lm_dev *d, struct lm_buf *x, const int32_t *ids, size_t n, size_t pos0, bool add_pos,
                  struct lm_err *e);
int lmi_cpu_qkv(struct lm_dev *d, uint32_t layer, const struct lm_buf *x, struct lm_buf *q, struct lm_kv *kv, size_t n,
                size_t pos0, struct lm_err *e);
int lmi_cpu_project(struct lm_dev *d, uint32_t layer, const struct lm_buf *a, struct lm_buf *x, size_t n,
                    struct lm_err *e);
int lmi_cpu_ffn(struct lm_dev *d, uint32_t layer, struct lm_buf *x, size_t n, struct lm_err *e);
int lmi_cpu_logits(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n_rows, float *logits,
                   struct lm_err *e);

#endif
