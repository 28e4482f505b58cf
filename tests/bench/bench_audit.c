/* Speed of lm-audit, lm-hash and lm-diff, against reading the same bytes:
 *
 *   bench_audit [MEGABYTES] [FOLDER]    models of that size (512) are made in FOLDER (/tmp) and removed
 *
 * Twice: with the file in the page cache, where rates are of CPU time, all
 * threads together (GB a second and core, so that other programs on the machine
 * count little), and with the file on disk only, by the clock. The measure is
 * reading the same bytes with pread and doing nothing; for digests also what
 * libcrypto's SHA-256 gives on one core. */
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "convert/audit.h"
#include "convert/diff.h"
#include "convert/hash.h"

enum { COLS = 4096, REPEATS = 3, CHUNK = 1 << 20 };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const char *what, const struct lm_err *e)
{
    fprintf(stderr, "bench_audit: %s: %s\n", what, e ? e->text : "failed");
    exit(1);
}

/* ---- a model of one matrix of random numbers */

static float noise(uint64_t *state)
{
    float sum = 0;

    for (int i = 0; i < 4; i++) {
        *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        sum += (float)(*state >> 40) / 16777216;
    }
    return (sum - 2) * 0.03f;
}

static void make_model(const char *dir, const char *name, enum lm_dtype d, uint64_t bytes)
{
    size_t row = lm_dtype_bytes(d, COLS), n_rows = (size_t)bytes / row, block = 512;
    struct lm_write_tensor t = {"w", d, 2, {n_rows, COLS}};
    struct lm_write_spec spec = {.tensors = &t, .n_tensors = 1, .meta = lm_meta_new()};
    float *x = malloc(block * COLS * sizeof *x);
    uint8_t *packed = malloc(block * row);
    struct lm_layout l;
    struct lm_err e;
    struct lm_commit *c;
    uint64_t seed = 5;
    int fd;

    if (lm_format_find("gguf")->layout(&l, &spec, name, &e) || lm_commit_begin(&c, dir, true, &e) ||
        lm_commit_add(c, name, l.files[0].n_bytes, &fd, &e) || lm_pwrite_all(fd, l.files[0].head, l.files[0].n_head, 0, &e))
        die(name, &e);
    for (size_t i = 0; i < block * COLS; i++)
        x[i] = noise(&seed);
    lm_dtype_info(d)->from_f32(packed, x, block * COLS);
    for (size_t r = 0; r < n_rows; r += block) {
        size_t k = n_rows - r < block ? n_rows - r : block;
        if (lm_pwrite_all(fd, packed, k * row, l.places[0].offset + r * row, &e))
            die(name, &e);
    }
    if (lm_commit_finish(c, &e))
        die(name, &e);
    lm_layout_free(&l);
    lm_meta_free((struct lm_meta *)(uintptr_t)spec.meta);
    free(x);
    free(packed);
}

/* ---- what is measured */

struct reading { int fd; uint64_t size, next; pthread_mutex_t lock; };

static void *read_some(void *arg)
{
    struct reading *r = arg;
    uint8_t *buf = malloc(CHUNK);

    for (;;) {
        pthread_mutex_lock(&r->lock);
        uint64_t at = r->next;
        r->next += CHUNK;
        pthread_mutex_unlock(&r->lock);
        if (at >= r->size || pread(r->fd, buf, CHUNK, (off_t)at) <= 0)
            break;
    }
    free(buf);
    return NULL;
}

static void just_read(struct lm_model *m)
{
    struct reading r = {.fd = lm_model_file(m, 0)->fd, .size = lm_model_file(m, 0)->map.size,
                        .lock = PTHREAD_MUTEX_INITIALIZER};
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    pthread_t threads[64];

    n = n > 64 ? 64 : n;
    for (long i = 0; i < n; i++)
        pthread_create(&threads[i], NULL, read_some, &r);
    for (long i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

static void hash(struct lm_model *m)
{
    struct lm_hash *h;
    struct lm_err e;

    if (lm_hash_model(&h, m, &(struct lm_run_options){0}, &e))
        die("hash", &e);
    lm_hash_free(h);
}

static void diff(struct lm_model *m)
{
    struct lm_diff *d;
    struct lm_err e;

    if (lm_diff_models(&d, m, m, &(struct lm_run_options){0}, &e))
        die("diff", &e);
    lm_diff_free(d);
}

static void audit(struct lm_model *m)
{
    struct lm_audit *a;
    struct lm_err e;

    if (lm_audit_path(&a, lm_model_path(m), &(struct lm_audit_options){0}, &e))
        die("audit", &e);
    lm_audit_free(a);
}

static double best(void (*f)(struct lm_model *m), struct lm_model *m)
{
    double least = 1e9;

    for (int i = 0; i < REPEATS; i++) {
        double began = now();
        f(m);
        double spent = now() - began;
        least = spent < least ? spent : least;
    }
    return least;
}

static double clock_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* By the clock, the file not in memory (where the file system lets it go: not on a tmpfs). */
static double cold(void (*f)(struct lm_model *m), struct lm_model *m)
{
    double least = 1e9;

    for (int i = 0; i < REPEATS; i++) {
        int fd = lm_model_file(m, 0)->fd;
        fdatasync(fd);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        double began = clock_now();
        f(m);
        double spent = clock_now() - began;
        least = spent < least ? spent : least;
    }
    return least;
}

static const struct { const char *name; void (*f)(struct lm_model *m); int files; } what[] = {
    {"read", just_read, 1}, {"audit", audit, 1}, {"hash", hash, 1}, {"diff, same", diff, 2}};
enum { N_WHAT = sizeof what / sizeof what[0] };

static void measure(const char *dir, enum lm_dtype d, uint64_t bytes)
{
    struct lm_model *m;
    struct lm_err e;
    char path[500];
    double reading = 0, disk = 0;

    make_model(dir, "bench-audit.gguf", d, bytes);
    snprintf(path, sizeof path, "%s/bench-audit.gguf", dir);
    if (lm_model_open(&m, path, &e))
        die(path, &e);
    for (size_t i = 0; i < N_WHAT; i++) {
        double rate = (double)bytes * what[i].files / best(what[i].f, m) / 1e9;
        double slow = (double)bytes / cold(what[i].f, m) / 1e9;
        reading = i == 0 ? rate : reading;
        disk = i == 0 ? slow : disk;
        printf("%-6s %-11s %6.2f GB/s a core, cached  %5.1f %% of reading   %6.2f GB/s from disk  %5.1f %% of reading\n",
               lm_dtype_name(d), what[i].name, rate, 100 * rate / reading, slow, 100 * slow / disk);
    }
    lm_model_close(m);
    unlink(path);
}

static void sha(void)
{
    enum { N = 64 << 20 };
    uint8_t *x = calloc(1, N), digest[32];
    double began = now();

    EVP_Digest(x, N, digest, NULL, EVP_sha256(), NULL);
    printf("SHA-256 of libcrypto, one core: %.2f GB/s\n", N / (now() - began) / 1e9);
    free(x);
}

int main(int argc, char **argv)
{
    static const enum lm_dtype types[] = {LM_BF16, LM_F32, LM_F16, LM_Q8_0, LM_Q4_K, LM_Q6_K};
    uint64_t bytes = (argc > 1 ? strtoull(argv[1], NULL, 10) : 512) * 1000000;

    sha();
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        measure(argc > 2 ? argv[2] : "/tmp", types[i], bytes);
    return 0;
}
