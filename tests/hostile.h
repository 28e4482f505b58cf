/* For tests: small sound files of every container, with the places of their
 * lengths, counts and offsets, and what a reader must say when one is wrong. */
#ifndef TESTS_HOSTILE_H
#define TESTS_HOSTILE_H

#include "tests/zips.h"

/* A number in a file. reasons: parts of sentences, one of which must be said when
 * the number is wrong, separated by '|'; a '?' at the beginning where some wrong
 * numbers make another sound file. */
struct field {
    const char *name, *reasons;
    size_t at;
    unsigned width; /* bytes */
    bool big_endian;
};
struct control {
    struct bytes b;
    struct field fields[96];
    size_t n_fields;
};

static inline void mark(struct control *c, const char *name, unsigned width, const char *reasons)
{
    assert_true(c->n_fields < sizeof c->fields / sizeof c->fields[0]);
    c->fields[c->n_fields++] = (struct field){name, reasons, c->b.n, width, false};
}
static inline void put_be(struct bytes *b, uint64_t v, unsigned width)
{
    for (unsigned i = width; i-- > 0;)
        put_u8(b, (uint8_t)(v >> 8 * i));
}
static inline void mark_u32(struct control *c, const char *name, uint32_t v, const char *reasons)
{
    mark(c, name, 4, reasons);
    put_u32(&c->b, v);
}
static inline void mark_u64(struct control *c, const char *name, uint64_t v, const char *reasons)
{
    mark(c, name, 8, reasons);
    put_u64(&c->b, v);
}
static inline void mark_u16(struct control *c, const char *name, uint16_t v, const char *reasons)
{
    mark(c, name, 2, reasons);
    put_u16(&c->b, v);
}
static inline void mark_be32(struct control *c, const char *name, uint32_t v, const char *reasons)
{
    mark(c, name, 4, reasons);
    c->fields[c->n_fields - 1].big_endian = true;
    put_be(&c->b, v, 4);
}

/* ---- GGUF */

/* What is read after a wrong length lies elsewhere. */
#define SHIFTED \
    "the key|value type|string of|array|ends inside|cannot be described|dimensions|type id|was removed|is not a multiple|whole|" \
    "end beyond|expected u32"

static inline void build_gguf3(struct control *c)
{
    struct bytes *b = &c->b;

    put_text(b, "GGUF");
    mark_u32(c, "version", 3, "?GGUF version|" SHIFTED);
    mark_u64(c, "n_tensors", 2, "?cannot be described|overlap");
    mark_u64(c, "n_kv", 4, "metadata pairs cannot fit|" SHIFTED);
    mark_u64(c, "key length", 17, SHIFTED);
    put_text(b, "general.alignment");
    mark_u32(c, "value type", LM_META_U32, SHIFTED);
    mark_u32(c, "alignment", 16, "general.alignment is|multiple of the alignment");
    put_str(b, "tokens");
    mark_u32(c, "array type", LM_META_ARRAY, SHIFTED);
    mark_u32(c, "element type", LM_META_STR, SHIFTED);
    mark_u64(c, "element count", 2, SHIFTED);
    mark_u64(c, "string length", 1, SHIFTED);
    put_text(b, "a");
    put_str(b, "bc");
    put_str(b, "scores");
    put_u32(b, LM_META_ARRAY);
    put_u32(b, LM_META_F32);
    mark_u64(c, "array count", 2, SHIFTED);
    put_zeros(b, 8);
    put_str(b, "s");
    put_u32(b, LM_META_STR);
    mark_u64(c, "value length", 2, SHIFTED);
    put_text(b, "xy");
    mark_u64(c, "name length", 3, SHIFTED);
    put_text(b, "one");
    mark_u32(c, "n_dims", 2, SHIFTED);
    mark_u64(c, "ne0", 4, "?overflows|overlap|beyond");
    mark_u64(c, "ne1", 2, "?overflows|overlap|beyond");
    mark_u32(c, "type", 0, "?type id|removed|overlap|whole");
    mark_u64(c, "offset", 0, "multiple of the alignment|end beyond the file");
    put_gguf_tensor(b, "two", 1, 32, 0, 8, 32);
    pad_to(b, 16);
    put_zeros(b, 32 + 34);
}

static inline void build_gguf1_big(struct control *c)
{
    struct bytes *b = &c->b;

    put_text(b, "GGUF");
    mark_be32(c, "version", 1, "GGUF version|cannot fit");
    mark_be32(c, "n_tensors", 1, "?cannot be described");
    mark_be32(c, "n_kv", 1, "metadata pairs cannot fit|" SHIFTED);
    mark_be32(c, "key length", 1, SHIFTED);
    put_text(b, "k");
    put_be(b, LM_META_ARRAY, 4);
    put_be(b, LM_META_U16, 4);
    mark_be32(c, "array count", 3, SHIFTED);
    put_zeros(b, 6);
    mark_be32(c, "name length", 1, SHIFTED);
    put_text(b, "t");
    mark_be32(c, "n_dims", 1, SHIFTED);
    mark_be32(c, "ne0", 4, "?overflows|end beyond the file");
    mark_be32(c, "type", 1, "?type id|removed|whole|end beyond");
    put_be(b, 0, 8);
    pad_to(b, 32);
    put_zeros(b, 8);
}

/* ---- safetensors */

static inline void build_safetensors(struct control *c)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],"
                                 "\"data_offsets\":[0,16]},\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[16,22]}}  ";

    mark_u64(c, "header length", sizeof header - 1,
             "header: |header does not begin|ends beyond the file|over the limit|belong to no tensor|not a model in");
    put_text(&c->b, header);
    put_zeros(&c->b, 22);
}

/* ---- NumPy */

static inline void put_npy2(struct control *c, const char *shape, size_t n)
{
    static const char dict[] = "{'descr': '<f4', 'fortran_order': False, 'shape': ";

    put_text(&c->b, "\x93NUMPY\2");
    put_u8(&c->b, 0);
    mark_u32(c, "header length", (uint32_t)(sizeof dict - 1 + strlen(shape) + 2), "header is cut short|header, byte|at most 65536|describes");
    put_text(&c->b, dict);
    put_text(&c->b, shape);
    put_text(&c->b, "}\n");
    put_zeros(&c->b, n);
}
static inline void build_npy(struct control *c)
{
    put_npy2(c, "(2, 3)", 24);
}

/* Two stored members, all fields of a zip. */
#define DIRECTORY "directory is cut short|a zip archive|another name|the name is empty"
#define LOCAL "its local header has another name|its local header is cut short|extra field"
#define SIZES "its local header has other sizes or another CRC"
#define END "end record|which is at its end, is missing"
static inline void build_zip(struct control *c, const char *const names[2], const struct bytes data[2])
{
    struct bytes *b = &c->b;
    size_t at[2], begin;

    for (int i = 0; i < 2; i++) {
        uint32_t crc = (uint32_t)crc32(0, data[i].data, (unsigned)data[i].n), n = (uint32_t)data[i].n;
        at[i] = b->n;
        put_u32(b, 0x04034b50);
        put_u16(b, 20);
        mark_u16(c, "local flags", 0, LOCAL);
        mark_u16(c, "local method", 0, LOCAL);
        put_u32(b, 0);
        mark_u32(c, "local crc", crc, SIZES);
        mark_u32(c, "local stored size", n, SIZES);
        mark_u32(c, "local size", n, SIZES);
        mark_u16(c, "local name length", (uint16_t)strlen(names[i]), LOCAL);
        mark_u16(c, "local extra length", 0, LOCAL);
        put_text(b, names[i]);
        put(b, data[i].data, data[i].n);
    }
    begin = b->n;
    for (int i = 0; i < 2; i++) {
        uint32_t crc = (uint32_t)crc32(0, data[i].data, (unsigned)data[i].n), n = (uint32_t)data[i].n;
        put_u32(b, 0x02014b50);
        put_u16(b, 20), put_u16(b, 20);
        mark_u16(c, "flags", 0, "has flags|is encrypted|" LOCAL);
        mark_u16(c, "method", 0, "is compressed by method|damaged|" LOCAL);
        put_u32(b, 0);
        mark_u32(c, "crc", crc, SIZES);
        mark_u32(c, "stored size", n, "its two sizes differ");
        mark_u32(c, "size", n, "its two sizes differ");
        mark_u16(c, "name length", (uint16_t)strlen(names[i]), DIRECTORY);
        mark_u16(c, "extra length", 0, DIRECTORY);
        mark_u16(c, "comment length", 0, DIRECTORY);
        mark_u16(c, "disk", 0, "of several parts");
        put_u16(b, 0), put_u32(b, 0);
        mark_u32(c, "local offset", (uint32_t)at[i], "beyond the end|no local header|" LOCAL);
        put_text(b, names[i]);
    }
    size_t n = b->n - begin;
    put_u32(b, 0x06054b50);
    mark_u16(c, "end: disk", 0, "one of several parts");
    mark_u16(c, "end: directory's disk", 0, "one of several parts");
    mark_u16(c, "end: members here", 2, "one of several parts");
    mark_u16(c, "end: members", 2, "one of several parts");
    mark_u32(c, "end: directory size", (uint32_t)n, END);
    mark_u32(c, "end: directory offset", (uint32_t)begin, END);
    mark_u16(c, "end: comment length", 0, END);
}

static inline void build_npz(struct control *c)
{
    static const char *const names[2] = {"a/b.npy", "c.npy"};
    struct control one = {0}, two = {0};

    put_npy2(&one, "(2, 2)", 16);
    put_npy2(&two, "(5,)", 20);
    build_zip(c, names, (const struct bytes[]){one.b, two.b});
    bytes_free(&one.b);
    bytes_free(&two.b);
}

/* ---- llama2.c */

static inline void build_llama2c(struct control *c, uint32_t version)
{
    enum { DIM = 8, HIDDEN = 16, LAYERS = 2, HEADS = 2, KV = 1, VOCAB = 32, CTX = 8, GROUP = 8 };
    static const struct { const char *name; uint32_t v; } numbers[] = {
        {"dim", DIM}, {"hidden_dim", HIDDEN}, {"n_layers", LAYERS}, {"n_heads", HEADS}, {"n_kv_heads", KV},
        {"vocab_size", VOCAB}, {"max_seq_len", CTX},
    };
    size_t norms = DIM * (2 * LAYERS + 1),
           matrices = VOCAB * DIM + LAYERS * (2 * DIM * DIM + 2 * DIM * DIM / 2 + 3 * DIM * HIDDEN);

    if (version) {
        put_text(&c->b, "24ka");
        mark_u32(c, "version", version, "llama2.c");
    }
    for (size_t i = 0; i < 7; i++)
        mark_u32(c, numbers[i].name, numbers[i].v,
                 version && i == 6 ? "?llama2.c header" : version ? "llama2.c header|describes a file of" : "not a model in");
    if (version) {
        put_u8(&c->b, 1);
        if (version == 2)
            mark_u32(c, "group size", GROUP, "llama2.c header|describes a file of");
        put_zeros(&c->b, 256 - c->b.n);
    }
    put_zeros(&c->b, 4 * norms + (version == 2 ? matrices + matrices / GROUP * 4 : 4 * matrices));
    if (!version)
        put_zeros(&c->b, CTX * (DIM / HEADS) * 4);
}
static inline void build_llama2c_0(struct control *c) { build_llama2c(c, 0); }
static inline void build_llama2c_1(struct control *c) { build_llama2c(c, 1); }
static inline void build_llama2c_2(struct control *c) { build_llama2c(c, 2); }

/* ---- ggml of 2023 */

#define GGML \
    "its header is not llama.cpp's|of a vocabulary cannot fit|the file ends inside|dimensions with a name of|type id|cut short|" \
    "one of|whole"
static inline void build_ggml(struct control *c, const char *magic, uint32_t version)
{
    static const struct { const char *name; uint32_t v; } numbers[] = {
        {"n_vocab", 4}, {"n_embd", 32}, {"n_mult", 256}, {"n_head", 2}, {"n_layer", 1}, {"n_rot", 16}, {"file type", 0},
    };
    struct bytes *b = &c->b;

    put_text(b, magic);
    if (version)
        mark_u32(c, "version", version, strcmp(magic, "tjgg") == 0 ? "?is not known|cut short" : "is not known");
    for (size_t i = 0; i < 7; i++)
        mark_u32(c, numbers[i].name, numbers[i].v, i ? "?" GGML : GGML);
    for (int i = 0; i < 4; i++) {
        mark_u32(c, "piece length", 1, GGML);
        put_text(b, "x");
        if (version)
            put_u32(b, 0);
    }
    mark_u32(c, "n_dims", 2, GGML);
    mark_u32(c, "name length", 21, GGML);
    mark_u32(c, "type", 2, "?" GGML);
    mark_u32(c, "ne0", 32, GGML);
    mark_u32(c, "ne1", 4, GGML);
    put_text(b, "tok_embeddings.weight");
    if (strcmp(magic, "tjgg") == 0)
        pad_to(b, 32);
    put_zeros(b, 4 * (version == 3 ? 18 : 20));
}
static inline void build_ggmf(struct control *c) { build_ggml(c, "fmgg", 1); }
static inline void build_ggjt1(struct control *c) { build_ggml(c, "tjgg", 1); }
static inline void build_ggjt3(struct control *c) { build_ggml(c, "tjgg", 3); }

static const struct { const char *name; void (*build)(struct control *c); } controls[] = {
    {"gguf3", build_gguf3}, {"gguf1-big", build_gguf1_big}, {"safetensors", build_safetensors}, {"npy", build_npy},
    {"npz", build_npz}, {"llama2c-0", build_llama2c_0}, {"llama2c-1", build_llama2c_1}, {"llama2c-2", build_llama2c_2},
    {"ggmf", build_ggmf}, {"ggjt-1", build_ggjt1}, {"ggjt-3", build_ggjt3},
};
enum { N_CONTROLS = sizeof controls / sizeof controls[0] };

#endif
