/* A safetensors file: the header from memory of exactly its size, where a
 * sanitizer sees every step too far, then the whole as a model, written and
 * read back. */
#include "tests/fuzz/fuzz.h"

#include "libmodel/fmt/safetensors.h"
#include "tests/fuzz/mutate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 8)
        return 0;
    uint64_t n = lm_load_u64le(data);
    if (n > size - 8)
        n = size - 8;
    struct lmi_st_header h = {0};
    struct lm_meta *meta = lm_meta_new();
    uint8_t *text = malloc(n + !n);
    require(meta && text, "memory");
    memcpy(text, data + 8, n);
    lmi_st_header_read(&h, lm_span_of(text, n), size - 8 - n, meta, NULL);
    require(h.n <= n / 4, "no more tensors than the text could hold");
    lmi_st_header_free(&h);
    lm_meta_free(meta);
    free(text);

    bool is_other = size >= 4 && memcmp(data, "\x89HDF", 4) == 0; /* read in a child: slow, and has its own target */
    struct lm_model *m = is_other ? NULL : open_bytes(data, size);
    if (m) {
        touch(m);
        if (strcmp(lm_model_format(m)->name, "safetensors") == 0)
            round_trip(m);
    }
    lm_model_close(m);
    return 0;
}

/* ---- a mutator that keeps the frame sound: the length that the text has, and
 * as many bytes of data as its numbers ask for, if that is little */

static uint64_t last_end(const uint8_t *text, size_t n)
{
    static const char word[] = "offsets\":[";
    uint64_t last = 0;

    for (const uint8_t *at = text; (at = memmem(at, n - (size_t)(at - text), word, sizeof word - 1));) {
        uint64_t v = 0;
        at += sizeof word - 1;
        while (at < text + n && *at != ']' && (*at == ',' || (*at >= '0' && *at <= '9'))) {
            v = *at == ',' ? 0 : v * 10 + (uint64_t)(*at - '0');
            at++;
        }
        last = v > last ? v : last;
    }
    return last;
}

static size_t replace_number(uint8_t *text, size_t n, size_t max, uint64_t *r)
{
    static const char *const with[] = {"0", "1", "2", "4", "16", "-1", "1e3", "00", "18446744073709551615", "4294967296",
                                       "9223372036854775807", "\"a\"", "[]", "null", "[1,1]"};
    const char *new = with[next(r) % (sizeof with / sizeof with[0])];
    size_t at = next(r) % n, len = 0;

    while (at < n && (text[at] < '0' || text[at] > '9'))
        at++;
    while (at + len < n && text[at + len] >= '0' && text[at + len] <= '9')
        len++;
    if (len == 0)
        return n;
    n = cut(text, n, at, len);
    return insert(text, n, max, at, new, strlen(new));
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    uint64_t r = seed, n = size >= 8 ? lm_load_u64le(data) : 0;

    if (n < 2 || n > size - 8 || max_size < size || next(&r) % 5 == 0)
        return mutate_plainly(data, size, max_size);
    size_t room = max_size - 8;
    n = next(&r) % 2 ? replace_number(data + 8, n, room, &r) : mutate_plainly(data + 8, n, room);
    uint64_t n_data = last_end(data + 8, n);
    lm_store_u64le(data, n);
    if (n_data > room - n)
        n_data = room - n;
    memset(data + 8 + n, 1, n_data);
    return 8 + n + n_data;
}
