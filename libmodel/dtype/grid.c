/* Builds the near lists of the codebooks. */
#include "libmodel/dtype/grid.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

enum {
    MAX_POINTS = 6561,    /* 3^8; 8^4 is less */
    MAX_BOOK = 2048,
    MAX_HALF = 81,        /* points of half the coordinates */
    MAX_DISTANCE = 4 * 7 * 7,
};

/* Lists have a fixed length for a book, so they are static: an encoder that
 * cannot run out of memory needs no way to say so.  Untouched pages cost
 * nothing. */
static uint16_t lists_iq2_xxs[10071 * LMI_NEAR_RUN], lists_iq2_xs[14410 * LMI_NEAR_RUN],
    lists_iq2_s[6286 * LMI_NEAR_RUN], lists_iq1[22647 * LMI_NEAR_RUN], lists_iq3_xxs[3902 * LMI_NEAR_RUN],
    lists_iq3_s[3706 * LMI_NEAR_RUN];
static struct lmi_near near_of[LMI_N_GRIDS][MAX_POINTS];

struct book {
    const uint16_t *points;
    uint16_t n_points;
    uint8_t n_levels, n_coords, bits;
    uint8_t n_shells; /* ggml's choice for each type */
    uint16_t *lists;
    size_t lists_len;
};

#define BOOK(t, levels, coords, bits, shells) \
    {lmi_##t##_points, sizeof lmi_##t##_points / 2, levels, coords, bits, shells, lists_##t, sizeof lists_##t / 2}

static const struct book books[LMI_N_GRIDS] = {
    [LMI_GRID_IQ2_XXS] = BOOK(iq2_xxs, 3, 8, 2, 2),
    [LMI_GRID_IQ2_XS] = BOOK(iq2_xs, 3, 8, 2, 2),
    [LMI_GRID_IQ2_S] = BOOK(iq2_s, 3, 8, 2, 1),
    [LMI_GRID_IQ1] = BOOK(iq1, 3, 8, 2, 3),
    [LMI_GRID_IQ3_XXS] = BOOK(iq3_xxs, 8, 4, 3, 2),
    [LMI_GRID_IQ3_S] = BOOK(iq3_s, 8, 4, 3, 3),
};

/* Distances are sums over two halves of the coordinates. */
struct halves {
    int n;
    uint8_t distance[MAX_HALF][MAX_HALF];
    uint8_t low[MAX_BOOK], high[MAX_BOOK]; /* of each point of the book */
};

static int number_of(const struct book *b, unsigned packed, int first, int n)
{
    int number = 0;

    for (int i = first + n - 1; i >= first; i--)
        number = number * b->n_levels + (int)(packed >> b->bits * i & ((1u << b->bits) - 1));
    return number;
}

static uint8_t squared_distance(int a, int c, const struct book *b)
{
    int sum = 0;

    for (int i = 0; i < b->n_coords / 2; i++, a /= b->n_levels, c /= b->n_levels) {
        int diff = a % b->n_levels - c % b->n_levels;
        sum += diff * diff;
    }
    return (uint8_t)sum;
}

static void fill_halves(struct halves *h, const struct book *b)
{
    int half = b->n_coords / 2;

    h->n = 1;
    for (int i = 0; i < half; i++)
        h->n *= b->n_levels;
    for (int a = 0; a < h->n; a++)
        for (int c = 0; c < h->n; c++)
            h->distance[a][c] = squared_distance(a, c, b);
    for (int j = 0; j < b->n_points; j++) {
        h->low[j] = (uint8_t)number_of(b, b->points[j], 0, half);
        h->high[j] = (uint8_t)number_of(b, b->points[j], half, half);
    }
}

/* Turns counts of each distance into the places where its points begin, the
 * shells that are not wanted behind the rest; the number wanted. */
static int place_shells(int *count, int n_shells)
{
    int n = 0, wanted = 0;

    for (int d = 0; d <= MAX_DISTANCE; d++) {
        int here = count[d];
        count[d] = n;
        n += here;
        if (here > 0 && n_shells-- > 0)
            wanted = n;
    }
    return wanted;
}

/* Sorts the book by distance from one point, stably; returns how many are
 * wanted, or 0 when the point itself is there: order[0]. */
static int near_points(uint16_t *order, int point, const struct book *b, const struct halves *h)
{
    const uint8_t *low = h->distance[point % h->n], *high = h->distance[point / h->n];
    int count[MAX_DISTANCE + 1] = {0};
    uint8_t distance[MAX_BOOK];

    for (int j = 0; j < b->n_points; j++) {
        distance[j] = (uint8_t)(low[h->low[j]] + high[h->high[j]]);
        count[distance[j]]++;
    }
    int present = count[0], wanted = place_shells(count, b->n_shells);
    for (int j = 0; j < b->n_points; j++)
        order[count[distance[j]]++] = (uint16_t)j;
    return present ? 0 : wanted;
}

static void build(struct lmi_near *near, const struct book *b)
{
    struct halves h;
    uint16_t order[MAX_BOOK];
    size_t len = 0;

    fill_halves(&h, b);
    for (int p = 0; p < h.n * h.n; p++) {
        int n = near_points(order, p, b, &h);
        near[p] = (struct lmi_near){n == 0 ? order[0] : (uint16_t)(len / LMI_NEAR_RUN), (uint16_t)n};
        for (int i = 0; i < n || (n > 0 && i % LMI_NEAR_RUN); i++) {
            assert(len < b->lists_len);
            b->lists[len++] = b->points[order[i < n ? i : n - 1]];
        }
    }
    assert(len == b->lists_len);
}

const struct lmi_grid *lmi_grid(enum lmi_grid_id id)
{
    static struct lmi_grid grids[LMI_N_GRIDS];
    static atomic_bool built[LMI_N_GRIDS];
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

    if (atomic_load_explicit(&built[id], memory_order_acquire))
        return &grids[id];
    pthread_mutex_lock(&lock);
    if (!atomic_load_explicit(&built[id], memory_order_relaxed)) {
        build(near_of[id], &books[id]);
        grids[id] = (struct lmi_grid){books[id].points, near_of[id], books[id].lists};
        atomic_store_explicit(&built[id], true, memory_order_release);
    }
    pthread_mutex_unlock(&lock);
    return &grids[id];
}
