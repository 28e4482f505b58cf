/* Decoding of packed weights, one thread, as lm-convert reads them: 128 Ki
 * elements at a time.  bench_packed FOLDER... (tests/bench/peer_packed.py --keep
 * makes some). */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "libmodel/model.h"

enum { PIECE = 128 << 10, TIMES = 3 };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t read_all(const struct lm_model *m, float *buf)
{
    uint64_t n_all = 0;

    for (size_t i = 0; i < lm_model_n_tensors(m); i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        for (uint64_t at = 0; t->packed && at < t->n_elems; at += PIECE) {
            uint64_t n = t->n_elems - at < PIECE ? t->n_elems - at : PIECE;
            lm_tensor_to_f32(t, at, n, buf, NULL);
            n_all += n;
        }
    }
    return n_all;
}

int main(int argc, char **argv)
{
    float *buf = malloc(PIECE * sizeof *buf);

    for (int i = 1; buf && i < argc; i++) {
        struct lm_model *m;
        struct lm_err e = {0};
        double best = 1e9;
        uint64_t n = 0;
        if (lm_model_open(&m, argv[i], &e)) {
            fprintf(stderr, "%s\n", e.text);
            return 1;
        }
        for (int k = 0; k < TIMES; k++) {
            double begin = now();
            n = read_all(m, buf);
            best = now() - begin < best ? now() - begin : best;
        }
        printf("%-40s %8.0f M weights/s\n", argv[i], (double)n / best / 1e6);
        lm_model_close(m);
    }
    free(buf);
    return 0;
}
