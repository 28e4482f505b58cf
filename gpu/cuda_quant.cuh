/* What the encoders are told. All on the device. */
#ifndef GPU_CUDA_QUANT_CUH
#define GPU_CUDA_QUANT_CUH

#include "gpu/cuda_base.cuh"
#include "gpu/cuda_fit.cuh"

struct lmc_encode {
    const float *src;     /* [n_rows, n_per_row] */
    const float *weights; /* [n_per_row], or NULL */
    float *spread;        /* room for n_rows */
    size_t n_per_row, n_rows;
    uint8_t *dst;
};

/* Q2_K to Q6_K; Q4_0, Q4_1, Q5_0, Q5_1 and (without weights) Q8_0. Queued on s. */
int lmc_encode_k(enum lm_dtype to, const struct lmc_encode *a, cudaStream_t s, struct lm_err *e);
int lmc_encode_legacy(enum lm_dtype to, const struct lmc_encode *a, cudaStream_t s, struct lm_err *e);

#endif
