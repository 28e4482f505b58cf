/* The parts of struct lm_backend that cuda_open.cu gives to cuda_backend.cu. */
#ifndef GPU_CUDA_DEVICE_CUH
#define GPU_CUDA_DEVICE_CUH

#include "gpu/cuda_base.cuh"

#define LMC_MAX_HEAD 256 /* widest head that attention keeps in registers */

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
/* n floats to the host, waiting for them. */
int lmc_to_host(struct lm_dev *d, float *host, const float *dev, size_t n, const char *what, struct lm_err *e);

#endif
