/* What cuda_backend.cu puts together: opening and memory (cuda_open.cu, cuda_memory.cu), operations (cuda_ops.cu),
 * recorded tokens (cuda_graph.cu). */
#ifndef GPU_CUDA_DEVICE_CUH
#define GPU_CUDA_DEVICE_CUH

#include "gpu/cuda_base.cuh"

int lmc_n_devices(struct lm_err *e);
int lmc_open(struct lm_dev **out, struct lm_net *net, const struct lm_backend_options *o, struct lm_err *e);
void lmc_close(struct lm_dev *d);
void lmc_describe(const struct lm_dev *d, char *buf, size_t size);
int lmc_buf_new(struct lm_buf **out, struct lm_dev *d, size_t n_floats, struct lm_err *e);
void lmc_buf_free(struct lm_dev *d, struct lm_buf *b);
int lmc_buf_read(struct lm_dev *d, const struct lm_buf *b, size_t first, size_t n, float *host, struct lm_err *e);
int lmc_buf_write(struct lm_dev *d, struct lm_buf *b, size_t first, size_t n, const float *host, struct lm_err *e);
int lmc_buf_move(struct lm_dev *d, struct lm_buf *b, size_t to, size_t from, size_t n, struct lm_err *e);
int lmc_kv_new(struct lm_kv **out, struct lm_dev *d, struct lm_err *e);
void lmc_kv_free(struct lm_dev *d, struct lm_kv *kv);
int lmc_kv_read(struct lm_dev *d, const struct lm_kv *kv, uint32_t layer, size_t pos, size_t n, float *k, float *v,
                struct lm_err *e);
int lmc_sync(struct lm_dev *d, struct lm_err *e);

/* An operation as the engine asked for it. */
enum lmc_op_kind { LMC_OP_EMBED, LMC_OP_QKV, LMC_OP_ATTEND, LMC_OP_PROJECT, LMC_OP_FFN, LMC_OP_LOGITS };
struct lmc_op {
    enum lmc_op_kind kind;
    uint32_t layer;
    struct lm_buf *x, *q; /* q: the queries, or what attention gave */
    struct lm_kv *kv;
    size_t n, first; /* first: row of x (logits) */
    uint32_t add_pos;
};
/* Arguments are as they must be. */
int lmc_check_op(const struct lm_dev *d, const struct lmc_op *op, size_t pos0, struct lm_err *e);
/* Queues its kernels. ids on the device. Logits end in scratch LMC_LOGITS. */
int lmc_run_op(struct lm_dev *d, const struct lmc_op *op, struct lmc_pos pos0, const int32_t *ids, struct lm_err *e);

/* struct lm_backend's compare (cuda_compare.cu). */
int lmc_compare(struct lm_dev *a, const struct lm_buf *xa, size_t first_a, struct lm_dev *b, const struct lm_buf *xb,
                size_t first_b, size_t n, size_t n_vocab, const int32_t *next, struct lm_position *out, struct lm_err *e);

/* Takes an operation on one token, to be run with the others of its token; all that wait are run by lmc_flush, which
 * whatever looks at results calls first. */
int lmc_defer(struct lm_dev *d, const struct lmc_op *op, uint32_t pos, int32_t id, struct lm_err *e);
int lmc_flush(struct lm_dev *d, struct lm_err *e);

#endif
