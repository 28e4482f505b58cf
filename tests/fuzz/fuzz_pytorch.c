/* PyTorch: bytes that are a zip or an old file are opened as they are; all
 * others are taken for data.pkl of a sound zip, so that a fuzzer spends its time
 * in the pickle and not on checksums and offsets. */
#include "tests/fuzz/fuzz.h"

#include "libmodel/fmt/pytorch.h"
#include "libmodel/parse/zip.h"
#include "tests/fuzz/mutate.h"

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

/* ---- a mutator that knows opcodes and the records of a zip */

static const struct { const char *bytes; size_t n; } words[] = {
#define WORD(s) {s, sizeof s - 1}
    WORD("ctorch._utils\n_rebuild_tensor_v2\n"), WORD("ccollections\nOrderedDict\n"), WORD("ctorch\nFloatStorage\n"),
    WORD("ctorch\nHalfStorage\n"), WORD("ctorch._utils\n_rebuild_parameter\n"), WORD("ctorch\nSize\n"), WORD("cos\nsystem\n"),
    WORD("ctorch._utils\n_rebuild_qtensor\n"), WORD("X\7\0\0\0storage"), WORD("X\1\0\0\0" "0"), WORD("X\3\0\0\0cpu"),
    WORD("K\0"), WORD("K\1"), WORD("K\4"), WORD("M\xff\xff"), WORD("J\xff\xff\xff\xff"), WORD("J\0\0\0\x80"), WORD("\x8a\1\x80"),
    WORD("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"), WORD("q\0"), WORD("h\0"), WORD("r\0\0\0\1"), WORD("j\0\0\0\1"), WORD("("),
    WORD("t"), WORD(")"), WORD("\x85"), WORD("\x86"), WORD("\x87"), WORD("}"), WORD("]"), WORD("u"), WORD("s"), WORD("e"), WORD("a"),
    WORD("R"), WORD("Q"), WORD("b"), WORD("0"), WORD("2"), WORD("N"), WORD("\x88"), WORD("\x89"), WORD("."), WORD("\x94"),
    WORD("\x93"), WORD("\x95\4\0\0\0\0\0\0\0"), WORD("\x8c\1" "0"), WORD("((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\4tQ"),
#undef WORD
};

static size_t change_words(uint8_t *data, size_t size, size_t max_size, uint64_t *r)
{
    size_t i = next(r) % (sizeof words / sizeof words[0]), k = next(r) % (sizeof words / sizeof words[0]);
    const uint8_t *at = size > 2 ? memmem(data + 2, size - 2, words[k].bytes, words[k].n) : NULL;

    if (at && next(r) % 3 == 0) {
        size_t place = (size_t)(at - data);
        size = cut(data, size, place, words[k].n);
        return next(r) % 2 ? insert(data, size, max_size, place, words[i].bytes, words[i].n) : size;
    }
    return insert(data, size, max_size, size ? next(r) % (size + 1) : 0, words[i].bytes, words[i].n);
}

/* One field of one record, and half of the time its twin's. */
static size_t change_record(uint8_t *data, size_t size, uint64_t *r)
{
    static const uint8_t local[] = {6, 8, 14, 18, 22, 26, 28}, width[] = {2, 2, 4, 4, 4, 2, 2};
    size_t k = next(r) % 7, at = size > 50 ? next(r) % (size - 46) : size;

    for (size_t i = 0; i + 46 < size; i++, at = at + 47 < size ? at + 1 : 0) {
        if (memcmp(data + at, "PK", 2) != 0)
            continue;
        bool end = data[at + 2] == 5, central = data[at + 2] == 1;
        if (end)
            set_number(data + at + 8 + 2 * (next(r) % 6), next(r) % 2 ? 2 : 4, r);
        else
            set_number(data + at + local[k] + 2 * central, width[k], r);
        break;
    }
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    uint64_t r = seed;
    uint32_t way = next(&r) % 4;

    if (way == 0)
        return mutate_plainly(data, size, max_size);
    if (size > 50 && memcmp(data, "PK", 2) == 0 && way < 3)
        return change_record(data, size, &r);
    return change_words(data, size, max_size, &r);
}
