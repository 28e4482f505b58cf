/* What the matrix-vector kernels are told. */
#ifndef GPU_CUDA_MATVEC_ARGS_CUH
#define GPU_CUDA_MATVEC_ARGS_CUH

#include "gpu/cuda_base.cuh"

#define MV_THREADS 256
#define MV_STRANDS 128
#define MV_ROWS 4        /* rows a warp works on at a time */
#define MV_TOKENS 8      /* tokens a block of matvec_many works on */
#define MV_ONE_ELEMS 16384 /* columns of one token kept in shared memory */
#define MV_MANY_ELEMS 1024

struct mv_part {
    lmc_planes planes;
    const lmc_planes *many; /* chosen among: see mv_args.choose */
    size_t first;     /* chunk of row 0 */
    float *out;
    size_t ld;
    const float *bias;
    uint32_t rows;
};

struct mv_args {
    mv_part part[3];
    int n_parts;
    uint32_t n_rows;      /* of all parts; with pair: 2 * rows of one */
    uint32_t chunks;      /* of a row */
    uint32_t cols;
    const float *x;
    size_t ldx;           /* from token to token */
    uint32_t n_tokens;
    uint32_t tile;        /* matvec_one: chunks in shared memory, a multiple of 128 */
    uint32_t batches;     /* matvec_one: times MV_ROWS rows a group does */
    bool pair, add;       /* pair: even rows are part 0's, odd ones part 1's; out = act(even) * odd */
    struct lmc_act_spec act;
    /* matvec_one with a matrix of many for each slot (blockIdx.y): token slot / per_token, matrix
     * select[slot], or slot % per_token where select is NULL. per_token 0: no choice. */
    uint32_t per_token;
    const uint32_t *select;
    size_t x_slot, out_slot;
};

/* What a block of threads works for: parts come from `many` by `matrix`, x and out move. */
struct mv_slot {
    uint32_t matrix;
    size_t x, out;
};

LMC_DEV mv_slot mv_slot_of(const mv_args &a)
{
    mv_slot s = {0, 0, 0};
    if (a.per_token) {
        uint32_t token = blockIdx.y / a.per_token, j = blockIdx.y % a.per_token;
        s.matrix = a.select ? a.select[blockIdx.y] : j;
        s.x = token * a.ldx + j * a.x_slot;
        s.out = token * a.part[0].ld + j * a.out_slot;
    }
    return s;
}

LMC_DEV const lmc_planes &mv_planes(const mv_args &a, int part, const mv_slot &s)
{
    return a.per_token ? a.part[part].many[s.matrix] : a.part[part].planes;
}

/* Where row i of the job is. */
struct mv_row {
    int part;
    uint32_t row;
};

LMC_DEV mv_row mv_find(const mv_args &a, uint32_t i)
{
    mv_row r = {0, i};
    if (a.pair) {
        r.part = i & 1;
        r.row = i >> 1;
        return r;
    }
    while (r.part + 1 < a.n_parts && r.row >= a.part[r.part].rows)
        r.row -= a.part[r.part++].rows;
    return r;
}

/* other: the result of row i + 1 (pair). */
LMC_DEV void mv_store(const mv_args &a, const mv_slot &s, uint32_t i, uint32_t token, float v, float other)
{
    mv_row r = mv_find(a, i);
    if (i >= a.n_rows || (a.pair && r.part == 1))
        return;
    const mv_part &p = a.part[r.part];
    float *out = p.out + s.out + token * p.ld + r.row;
    const size_t bias = (size_t)s.matrix * p.rows + r.row;
    if (p.bias)
        v += p.bias[bias];
    if (a.pair) {
        if (a.part[1].bias)
            other += a.part[1].bias[bias];
        *out = lmc_gate(v, other, a.act);
    } else if (a.add) {
        *out += v;
    } else {
        *out = lmc_activate(v, a.act);
    }
}

#endif
