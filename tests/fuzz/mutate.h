/* What mutators that know a format share.  libFuzzer calls LLVMFuzzerCustomMutator
 * where a target has one; without libFuzzer they are compiled and not used. */
#ifndef TESTS_FUZZ_MUTATE_H
#define TESTS_FUZZ_MUTATE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
/* libFuzzer's own; absent (NULL) elsewhere. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) __attribute__((weak));

static inline uint32_t next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 32);
}

static inline size_t mutate_plainly(uint8_t *data, size_t size, size_t max_size)
{
    return LLVMFuzzerMutate ? LLVMFuzzerMutate(data, size, max_size) : size;
}

/* A number that breaks arithmetic, or one beside the old. */
static inline uint64_t boundary(uint64_t *state, uint64_t old)
{
    static const uint64_t values[] = {0, 1, 2, 3, 4, 7, 8, 16, 31, 32, 127, 255, 256, 65535, 65536, 0x7fffffff, 0x80000000,
                                      0xffffffff, 1ull << 32, 1ull << 53, 1ull << 62, INT64_MAX, 1ull << 63, UINT64_MAX - 31,
                                      UINT64_MAX};
    uint32_t r = next(state);

    if (r % 3 == 0)
        return old + (r & 0x100 ? 1 : UINT64_MAX);
    return values[(r >> 9) % (sizeof values / sizeof values[0])];
}

static inline void set_number(uint8_t *p, unsigned width, uint64_t *state)
{
    uint64_t old = 0;

    memcpy(&old, p, width);
    old = boundary(state, old);
    memcpy(p, &old, width);
}

/* Puts n bytes in at `at` if there is room; the new size. */
static inline size_t insert(uint8_t *data, size_t size, size_t max_size, size_t at, const void *bytes, size_t n)
{
    if (at > size || n > max_size - size)
        return size;
    memmove(data + at + n, data + at, size - at);
    memcpy(data + at, bytes, n);
    return size + n;
}
static inline size_t cut(uint8_t *data, size_t size, size_t at, size_t n)
{
    if (at >= size || n > size - at)
        return size;
    memmove(data + at, data + at + n, size - at - n);
    return size - n;
}
#endif
