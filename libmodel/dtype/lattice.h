/* What the IQ1, IQ2 and IQ3 kernels share: lanes that look up small tables, and
 * the search for the best point of a codebook.  As in lanes.h, every lane does
 * ggml's operations in ggml's order. */
#ifndef LIBMODEL_DTYPE_LATTICE_H
#define LIBMODEL_DTYPE_LATTICE_H

#include <float.h>

#include "libmodel/dtype/grid.h"
#include "libmodel/dtype/iq.h"
#include "libmodel/dtype/lanes.h"

/* pick4: lane l gives table[index[l] & 3]; pick8: table[index[l] & 7].
 * Bit l of vm_bits is lane l. */
#if LMI_LANES == 16
INLINE vf pick4(const float *table, vi index)
{
    return (vf)_mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(table)), (__m512i)index);
}
INLINE vf pick8(const float *table, vi index)
{
    return (vf)_mm512_permutexvar_ps((__m512i)index, _mm512_broadcast_f32x8(_mm256_loadu_ps(table)));
}
INLINE uint32_t vm_bits(vm m) { return m; }
INLINE vi vi_load_u16(const uint16_t *p) { return (vi)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)); }
INLINE float vf_least(vf a) { return _mm512_reduce_min_ps((__m512)a); }
INLINE vi lane_numbers(void) { return (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
#elif LMI_LANES == 8
INLINE vf pick4(const float *table, vi index)
{
    return (vf)_mm256_permutevar_ps(_mm256_broadcast_ps((const void *)table), (__m256i)index);
}
INLINE vf pick8(const float *table, vi index)
{
    return (vf)_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)index);
}
INLINE uint32_t vm_bits(vm m) { return vi_signs(m); }
INLINE vi vi_load_u16(const uint16_t *p) { return (vi)_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)); }
INLINE float vf_least(vf a)
{
    __m128 m = _mm_min_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
    m = _mm_min_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_min_ss(m, _mm_movehdup_ps(m)));
}
INLINE vi lane_numbers(void) { return (vi){0, 1, 2, 3, 4, 5, 6, 7}; }
#else
INLINE vf pick4(const float *table, vi index)
{
    return (vf){table[index[0] & 3], table[index[1] & 3], table[index[2] & 3], table[index[3] & 3]};
}
INLINE vf pick8(const float *table, vi index)
{
    return (vf){table[index[0] & 7], table[index[1] & 7], table[index[2] & 7], table[index[3] & 7]};
}
INLINE uint32_t vm_bits(vm m) { return vi_signs(m); }
INLINE vi vi_load_u16(const uint16_t *p) { return (vi){p[0], p[1], p[2], p[3]}; }
INLINE float vf_least(vf a)
{
    float x = a[0] < a[1] ? a[0] : a[1], y = a[2] < a[3] ? a[2] : a[3];
    return x < y ? x : y;
}
INLINE vi lane_numbers(void) { return (vi){0, 1, 2, 3}; }
#endif

enum {
    COSTS = 32, /* floats of a table: 8 coordinates x 4 (levels 0, 1, 2, and 2 again) or 4 x 8 */
};

/* The shape of a codebook's points: constant in every caller. */
struct shape {
    int coords, levels, bits;
};
#define EIGHT_OF_THREE ((struct shape){8, 3, 2})
#define FOUR_OF_EIGHT ((struct shape){4, 8, 3})

INLINE int width(struct shape s)
{
    return COSTS / s.coords;
}

INLINE vf pick(const float *table, vi index, struct shape s)
{
    return s.coords == 8 ? pick4(table, index) : pick8(table, index);
}

/* The sums over the coordinates of LANES points. */
INLINE vf point_sums(vi points, const float *costs, struct shape s)
{
    vf sum = pick(costs, points, s);

    for (int i = 1; i < s.coords; i++)
        sum += pick(costs + width(s) * i, points >> s.bits * i, s);
    return sum;
}

/* The point of a list with the smallest sum, the first if several. */
INLINE unsigned best_point(const uint16_t *list, int n, const float *costs, struct shape s)
{
    vf best = vf_set(FLT_MAX);
    vi at = lane_numbers(), best_at = at;

    for (int i = 0; i < n; i += LANES, at += vi_set(LANES)) {
        vf sum = point_sums(vi_load_u16(list + i), costs, s);
        vm less = vf_lt(sum, best);
        best = vf_sel(less, sum, best);
        best_at = (vi)vf_sel(less, (vf)at, (vf)best_at);
    }
    uint32_t ties = vm_bits(vf_eq(best, vf_set(vf_least(best))));
    if (n <= LANES)
        return list[ties ? __builtin_ctz(ties) : 0];
    int first = INT32_MAX;
    int32_t place[LANES];
    memcpy(place, &best_at, sizeof place);
    for (; ties; ties &= ties - 1)
        first = place[__builtin_ctz(ties)] < first ? place[__builtin_ctz(ties)] : first;
    return list[first == INT32_MAX ? 0 : first];
}

/* to[width i + level] = x[i] */
INLINE void spread(float *to, const float *x, struct shape s)
{
    for (int i = 0; i < s.coords; i++)
        for (int c = 0; c < width(s); c++)
            to[width(s) * i + c] = x[i];
}

/* costs[width i + c] = w (scale level[c] - x)^2, x and w spread; level [16]. */
INLINE void fill_costs(float *costs, const float *x, const float *w, const float *level, float scale)
{
    for (int c = 0; c < COSTS; c += LANES) {
        vf diff = vf_set(scale) * vf_load(level + c % 16) - vf_load(x + c);
        vf_store(costs + c, vf_load(w + c) * diff * diff);
    }
}

/* Sums of squares of consecutive blocks, each in order. */
INLINE void sums_of_squares(float *sum, const float *x, size_t n_blocks)
{
    for (; n_blocks >= LANES; n_blocks -= LANES, x += LANES * LMI_QK_K, sum += LANES) {
        vf total = vf_set(0), t[LANES];
        for (int c = 0; c < LMI_QK_K; c += LANES) {
            for (int l = 0; l < LANES; l++)
                t[l] = vf_load(x + l * LMI_QK_K + c);
            transpose(t);
            for (int i = 0; i < LANES; i++)
                total += t[i] * t[i];
        }
        vf_store(sum, total);
    }
    for (; n_blocks > 0; n_blocks--, x += LMI_QK_K, sum++) {
        *sum = 0;
        for (int i = 0; i < LMI_QK_K; i++)
            *sum += x[i] * x[i];
    }
}

/* Weights of a block: importance x sqrt(sigma2 + x^2). */
INLINE void weigh(float *w, const float *x, const float *importance, float sigma2)
{
    for (int i = 0; i < LMI_QK_K; i += LANES) {
        vf v = vf_load(x + i);
        vf_store(w + i, vf_load(importance + i) * vf_sqrt(vf_set(sigma2) + v * v));
    }
}

/* The weights where there is no importance. */
INLINE void weigh_squares(float *w, const float *x, float offset)
{
    for (int i = 0; i < LMI_QK_K; i += LANES) {
        vf v = vf_load(x + i);
        vf_store(w + i, vf_set(offset) + v * v);
    }
}

#endif
