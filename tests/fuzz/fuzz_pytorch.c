/* PyTorch: bytes that are a zip or an old file are opened as they are; all
 * others are taken for data.pkl of a sound zip, so that a fuzzer spends its time
 * in the pickle and not on checksums and offsets. */
#include "tests/fuzz/fuzz.h"

#include "libmodel/fmt/pytorch.h"
#include "libmodel/parse/zip.h"

enum { LOCAL = 30, CENTRAL = 46, END = 22, N_STORAGE = 16 };

static uint8_t *put_bytes(uint8_t *at, const void *data, size_t n)
{
    if (n)
        memcpy(at, data, n);
    return at + n;
}

static uint8_t *put_header(uint8_t *at, bool central, const char *name, size_t n, size_t offset)
{
    lm_store_u32le(at, central ? 0x02014b50 : 0x04034b50);
    size_t skip = central ? 2 : 0;
    lm_store_u32le(at + 18 + skip, (uint32_t)n);
    lm_store_u32le(at + 22 + skip, (uint32_t)n);
    lm_store_u16le(at + 26 + skip, (uint16_t)strlen(name));
    if (central)
        lm_store_u32le(at + 42, (uint32_t)offset);
    return put_bytes(at + (central ? CENTRAL : LOCAL), name, strlen(name));
}

/* A zip of data.pkl and a storage "0" of 16 bytes. */
static uint8_t *wrap(const uint8_t *data, size_t size, size_t *n)
{
    static const char *const names[] = {"a/data.pkl", "a/data/0"};
    uint8_t *zip = calloc(1, size + 1000), *at = zip;
    uint8_t storage[N_STORAGE] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

    require(zip != NULL, "memory");
    at = put_bytes(put_header(at, false, names[0], size, 0), data, size);
    size_t second = (size_t)(at - zip);
    at = put_bytes(put_header(at, false, names[1], N_STORAGE, 0), storage, N_STORAGE);
    size_t directory = (size_t)(at - zip);
    at = put_header(at, true, names[0], size, 0);
    at = put_header(at, true, names[1], N_STORAGE, second);
    lm_store_u32le(at, 0x06054b50);
    lm_store_u16le(at + 8, 2);
    lm_store_u16le(at + 10, 2);
    lm_store_u32le(at + 12, (uint32_t)((size_t)(at - zip) - directory));
    lm_store_u32le(at + 16, (uint32_t)directory);
    *n = (size_t)(at - zip) + END;
    return zip;
}

static void pickle_alone(const uint8_t *data, size_t size)
{
    struct lm_arena arena = {0};
    struct lm_err e = {0};
    struct lmi_pk root;
    struct lmi_unpickler u = {.in = lm_cursor_of(lm_span_of(data, size)), .arena = &arena, .e = &e,
                              .globals = lmi_torch_globals, .n_globals = lmi_torch_n_globals,
                              .persistent = lmi_torch_persistent};

    require(lmi_unpickle(&u, &root) == 0 || e.code != LM_OK, "a refusal has a reason");
    require(arena.used <= 4096 + 400 * size, "memory in proportion to the bytes");
    lmi_unpickler_free(&u);
    lm_arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool as_is = size >= 4 && (memcmp(data, "PK", 2) == 0 || lmi_torch_is_legacy(lm_span_of(data, size)));
    size_t n = size;
    uint8_t *zip = as_is ? NULL : wrap(data, size, &n);

    if (!as_is)
        pickle_alone(data, size);
    struct lm_model *m = open_bytes(as_is ? data : zip, n);
    if (m)
        touch(m);
    lm_model_close(m);
    free(zip);
    return 0;
}
