/* GGUF files with one defect each. Every one must be refused with the reason
 * that names the defect; G1 to G19 are kinds of bugs that other readers had:
 * counts that overflow an allocation, offsets behind the end, and so on. */
#include "tests/files.h"

/* One tensor alone, n_data bytes behind it. */
static void one_tensor(struct bytes *b, unsigned n_dims, uint64_t ne0, uint64_t ne1, uint32_t type, uint64_t offset,
                       size_t n_data)
{
    put_gguf(b, 1, 0);
    put_gguf_tensor(b, "t", n_dims, ne0, ne1, type, offset);
    pad_to(b, 32);
    put_zeros(b, n_data);
}

/* One pair alone; the value follows. */
static void one_pair(struct bytes *b, const char *key, uint32_t type)
{
    put_gguf(b, 0, 1);
    put_key(b, key, type);
}

static void one_array(struct bytes *b, uint32_t elem, uint64_t n)
{
    one_pair(b, "a", LM_META_ARRAY);
    put_u32(b, elem);
    put_u64(b, n);
}

static void alignment(struct bytes *b, uint32_t v)
{
    one_pair(b, "general.alignment", LM_META_U32);
    put_u32(b, v);
}

static void only_magic(struct bytes *b) { put_text(b, "GGUF"); }
static void only_version(struct bytes *b) { put_text(b, "GGUF"); put_u32(b, 3); }
static void only_one_count(struct bytes *b) { only_version(b); put_u64(b, 0); }
static void version_0(struct bytes *b) { put_text(b, "GGUF"); put_u32(b, 0); put_zeros(b, 64); }
static void version_4(struct bytes *b) { put_text(b, "GGUF"); put_u32(b, 4); put_zeros(b, 64); }
static void version_4_big(struct bytes *b) { put_text(b, "GGUF"); put_u32(b, 4u << 24); put_zeros(b, 64); }
static void kv_max(struct bytes *b) { put_gguf(b, 0, UINT64_MAX); put_zeros(b, 100); }
static void kv_wraps(struct bytes *b) { put_gguf(b, 0, UINT64_MAX / 48 + 2); put_zeros(b, 100); }
static void kv_more_than_bytes(struct bytes *b) { put_gguf(b, 0, 8); put_zeros(b, 100); }
static void kv_over_limit(struct bytes *b) { put_gguf(b, 0, 65537); put_zeros(b, 65537 * 13); }
static void tensors_max(struct bytes *b) { put_gguf(b, UINT64_MAX, 0); put_zeros(b, 100); }
static void tensors_wrap(struct bytes *b) { put_gguf(b, UINT64_MAX / 128 + 2, 0); put_zeros(b, 100); }
static void tensors_more_than_bytes(struct bytes *b) { put_gguf(b, 5, 0); put_zeros(b, 100); }
static void key_max(struct bytes *b) { put_gguf(b, 0, 1); put_u64(b, UINT64_MAX); put_zeros(b, 32); }
static void key_behind_end(struct bytes *b) { put_gguf(b, 0, 1); put_u64(b, 33); put_zeros(b, 32); }
static void str_max(struct bytes *b) { one_pair(b, "s", LM_META_STR); put_u64(b, UINT64_MAX); put_text(b, "x"); }
static void strs_max(struct bytes *b) { one_array(b, LM_META_STR, UINT64_MAX / 16 + 2); put_zeros(b, 64); }
static void strs_one_too_many(struct bytes *b) { one_array(b, LM_META_STR, 9); put_zeros(b, 64); }
static void str_in_array(struct bytes *b) { one_array(b, LM_META_STR, 2); put_str(b, "a"); put_u64(b, 1ull << 63); }
static void array_max(struct bytes *b) { one_array(b, LM_META_F64, UINT64_MAX); put_zeros(b, 64); }
static void array_wraps(struct bytes *b) { one_array(b, LM_META_U32, (1ull << 62) + 1); put_zeros(b, 64); }
static void array_one_too_many(struct bytes *b) { one_array(b, LM_META_U16, 33); put_zeros(b, 64); }
static void dims_5(struct bytes *b)
{
    put_gguf(b, 1, 0);
    put_str(b, "t");
    put_u32(b, 5);
    for (int i = 0; i < 5; i++)
        put_u64(b, 1);
    put_zeros(b, 64);
}
static void dims_max(struct bytes *b) { put_gguf(b, 1, 0); put_str(b, "t"); put_u32(b, UINT32_MAX); put_zeros(b, 64); }
static void sizes_wrap_sum(struct bytes *b)
{
    put_gguf(b, 2, 0);
    put_gguf_tensor(b, "a", 1, 32, 0, 24, 0);
    put_gguf_tensor(b, "b", 1, INT64_MAX - 31, 0, 24, 32); /* the padded sum is 2^63 */
    pad_to(b, 32);
    put_zeros(b, 64);
}
static void offset_wraps(struct bytes *b) { one_tensor(b, 1, 4, 0, 24, UINT64_MAX - 31, 64); }
static void elems_wrap(struct bytes *b) { one_tensor(b, 2, (1ull << 62) + 1, 4, 24, 0, 64); }
static void elems_wrap_to_zero(struct bytes *b) { one_tensor(b, 2, 1ull << 32, 1ull << 32, 24, 0, 64); }
static void elems_wrap_to_four(struct bytes *b) { one_tensor(b, 2, (1ull << 62) + 2, 4, 24, 0, 64); }
static void bytes_wrap(struct bytes *b) { one_tensor(b, 1, 1ull << 62, 0, 27, 0, 64); }
static void bytes_wrap_quant(struct bytes *b) { one_tensor(b, 2, 1ull << 32, (1ull << 32) - 1, 15, 0, 64); }
static void pad_wraps(struct bytes *b) { one_tensor(b, 1, INT64_MAX, 0, 24, 0, 64); }
static void dim_negative(struct bytes *b) { one_tensor(b, 1, UINT64_MAX, 0, 24, 0, 64); }
static void zero_hides_overflow(struct bytes *b)
{
    put_gguf(b, 1, 0);
    put_str(b, "t");
    put_u32(b, 3);
    put_u64(b, 1ull << 40);
    put_u64(b, 1ull << 40);
    put_u64(b, 0);
    put_u32(b, 24);
    put_u64(b, 0);
    pad_to(b, 32);
}
static void data_behind_end(struct bytes *b) { one_tensor(b, 1, 65, 0, 24, 0, 64); }
static void offset_behind_end(struct bytes *b) { one_tensor(b, 1, 1, 0, 24, 64, 64); }
static void offset_far(struct bytes *b) { one_tensor(b, 1, 1, 0, 24, 1ull << 40, 64); }
static void no_data(struct bytes *b) { put_gguf(b, 1, 0); put_gguf_tensor(b, "t", 1, 1, 0, 24, 0); }
static void overlap(struct bytes *b)
{
    put_gguf(b, 3, 0);
    put_gguf_tensor(b, "high", 1, 32, 0, 24, 64);
    put_gguf_tensor(b, "low", 1, 33, 0, 24, 32);
    put_gguf_tensor(b, "first", 1, 32, 0, 24, 0);
    pad_to(b, 32);
    put_zeros(b, 128);
}
static void offset_unaligned(struct bytes *b) { one_tensor(b, 1, 1, 0, 24, 8, 64); }
static void alignment_0(struct bytes *b) { alignment(b, 0); }
static void alignment_4(struct bytes *b) { alignment(b, 4); }
static void alignment_13(struct bytes *b) { alignment(b, 13); }
static void alignment_huge(struct bytes *b) { alignment(b, 1u << 31); }
static void alignment_u64(struct bytes *b) { one_pair(b, "general.alignment", LM_META_U64); put_u64(b, 32); }
static void alignment_i32(struct bytes *b) { one_pair(b, "general.alignment", LM_META_I32); put_u32(b, 32); }
static void alignment_str(struct bytes *b) { one_pair(b, "general.alignment", LM_META_STR); put_str(b, "32"); }
static void value_type_13(struct bytes *b) { one_pair(b, "k", 13); put_zeros(b, 8); }
static void value_type_negative(struct bytes *b) { one_pair(b, "k", UINT32_MAX); put_zeros(b, 8); }
static void elem_type_13(struct bytes *b) { one_array(b, 13, 1); put_zeros(b, 8); }
static void elem_type_negative(struct bytes *b) { one_array(b, 0x80000000u, 1); put_zeros(b, 8); }
static void type_43(struct bytes *b) { one_tensor(b, 1, 32, 0, 43, 0, 64); }
static void type_negative(struct bytes *b) { one_tensor(b, 1, 32, 0, UINT32_MAX, 0, 64); }
static void type_removed(struct bytes *b) { one_tensor(b, 1, 32, 0, 4, 0, 64); }
static void type_removed_repacked(struct bytes *b) { one_tensor(b, 1, 32, 0, 31, 0, 64); }
static void bool_2(struct bytes *b) { one_pair(b, "k", LM_META_BOOL); put_u8(b, 2); }
static void bool_in_array(struct bytes *b) { one_array(b, LM_META_BOOL, 2); put_u8(b, 1); put_u8(b, 255); }
static void key_empty(struct bytes *b) { one_pair(b, "", LM_META_U8); put_u8(b, 1); }
static void key_nul(struct bytes *b)
{
    put_gguf(b, 0, 1);
    put_u64(b, 3);
    put(b, "a\0b", 3);
    put_u32(b, LM_META_U8);
    put_u8(b, 1);
}
static void key_not_utf8(struct bytes *b) { one_pair(b, "k\xff", LM_META_U8); put_u8(b, 1); }
static void key_long(struct bytes *b)
{
    put_gguf(b, 0, 1);
    put_u64(b, 65536);
    for (int i = 0; i < 65536; i++)
        put_u8(b, 'k');
    put_u32(b, LM_META_U8);
    put_u8(b, 1);
}
static void array_of_arrays(struct bytes *b) { one_array(b, LM_META_ARRAY, 1); put_u32(b, LM_META_ARRAY); put_u64(b, 1); }
static void array_bomb(struct bytes *b)
{
    /* 160 bytes that make others reserve gigabytes */
    put_gguf(b, 0, 4);
    for (int i = 0; i < 4; i++) {
        put_key(b, "k", LM_META_ARRAY);
        put_u32(b, LM_META_U8);
        put_u64(b, 1 << 30);
    }
}
static void key_twice(struct bytes *b)
{
    put_gguf(b, 0, 2);
    put_key(b, "k", LM_META_U8);
    put_u8(b, 1);
    put_key(b, "k", LM_META_U32);
    put_u32(b, 1);
}
static void tensor_twice(struct bytes *b)
{
    put_gguf(b, 2, 0);
    put_gguf_tensor(b, "same", 1, 1, 0, 24, 0);
    put_gguf_tensor(b, "same", 1, 1, 0, 24, 32);
    pad_to(b, 32);
    put_zeros(b, 64);
}
static void name_empty(struct bytes *b) { put_gguf(b, 1, 0); put_gguf_tensor(b, "", 1, 1, 0, 24, 0); pad_to(b, 32); put_zeros(b, 32); }
static void name_not_utf8(struct bytes *b)
{
    put_gguf(b, 1, 0);
    put_gguf_tensor(b, "w\x80", 1, 1, 0, 24, 0);
    pad_to(b, 32);
    put_zeros(b, 32);
}
static void name_nul(struct bytes *b)
{
    put_gguf(b, 1, 0);
    put_u64(b, 3);
    put(b, "w\0x", 3);
    put_u32(b, 1);
    put_u64(b, 1);
    put_u32(b, 24);
    put_u64(b, 0);
    pad_to(b, 32);
    put_zeros(b, 32);
}
static void row_not_whole(struct bytes *b) { one_tensor(b, 2, 16, 2, 2, 0, 64); } /* 32 elements, no whole block in a row */
static void v1_kv_max(struct bytes *b) { put_text(b, "GGUF"); put_u32(b, 1); put_u32(b, 0); put_u32(b, UINT32_MAX); put_zeros(b, 64); }
static void v1_str_max(struct bytes *b)
{
    put_text(b, "GGUF");
    put_u32(b, 1);
    put_u32(b, 0);
    put_u32(b, 1);
    put_u32(b, UINT32_MAX);
    put_zeros(b, 64);
}

static const struct {
    const char *name;
    void (*build)(struct bytes *b);
    enum lm_code code;
    const char *reason;
} gguf_cases[] = {
    {"G1 n_kv 2^64-1", kv_max, LM_MALFORMED, "18446744073709551615 metadata pairs cannot fit"},
    {"G1 n_kv wraps the allocation", kv_wraps, LM_MALFORMED, "metadata pairs cannot fit in the 100 bytes"},
    {"G1 n_kv more than the bytes", kv_more_than_bytes, LM_MALFORMED, "8 metadata pairs cannot fit in the 100 bytes"},
    {"G1 n_kv over our limit", kv_over_limit, LM_LIMIT, "65537 metadata pairs, at most 65536"},
    {"G1 version 1", v1_kv_max, LM_MALFORMED, "4294967295 metadata pairs cannot fit"},
    {"G2 n_tensors 2^64-1", tensors_max, LM_MALFORMED, "18446744073709551615 tensors cannot be described"},
    {"G2 n_tensors wraps the allocation", tensors_wrap, LM_MALFORMED, "tensors cannot be described in the 100 bytes"},
    {"G2 n_tensors more than the bytes", tensors_more_than_bytes, LM_MALFORMED, "5 tensors cannot be described"},
    {"G3 key of 2^64-1 bytes", key_max, LM_MALFORMED, "a string of 18446744073709551615 bytes where 32 are left"},
    {"G3 key behind the end", key_behind_end, LM_MALFORMED, "a string of 33 bytes where 32 are left"},
    {"G3 string of 2^64-1 bytes", str_max, LM_MALFORMED, "key 's': a string of 18446744073709551615 bytes where 1"},
    {"G3 version 1", v1_str_max, LM_MALFORMED, "a string of 4294967295 bytes where 64"},
    {"G4 array of strings wraps", strs_max, LM_MALFORMED, "elements of str where 64 bytes"},
    {"G4 array of strings, one too many", strs_one_too_many, LM_MALFORMED, "an array of 9 elements of str where 64"},
    {"G4 string in an array", str_in_array, LM_MALFORMED, "element 1: a string of 9223372036854775808 bytes"},
    {"G5 five dimensions", dims_5, LM_MALFORMED, "'t': 5 dimensions, GGUF allows at most 4"},
    {"G5 2^32-1 dimensions", dims_max, LM_MALFORMED, "4294967295 dimensions"},
    {"G6 array of 2^64-1", array_max, LM_MALFORMED, "18446744073709551615 elements of f64 where 64"},
    {"G6 array wraps", array_wraps, LM_MALFORMED, "elements of u32 where 64"},
    {"G6 array, one too many", array_one_too_many, LM_MALFORMED, "33 elements of u16 where 64"},
    {"G7 padded sum of sizes wraps", sizes_wrap_sum, LM_MALFORMED, "tensor 'b': its data"},
    {"G8 offset wraps", offset_wraps, LM_MALFORMED, "tensor 't'"},
    {"G9 elements wrap", elems_wrap, LM_MALFORMED, "the product of its shape overflows"},
    {"G9 bytes wrap", bytes_wrap, LM_MALFORMED, "elements of I64 overflows"},
    {"G9 bytes of blocks wrap", bytes_wrap_quant, LM_MALFORMED, "elements of Q8_K"},
    {"G10 padding wraps", pad_wraps, LM_MALFORMED, "end beyond the file"},
    {"G11 negative dimension", dim_negative, LM_MALFORMED, "dimension 0 is 18446744073709551615"},
    {"G12 product wraps to 0", elems_wrap_to_zero, LM_MALFORMED, "the product of its shape overflows"},
    {"G12 product wraps to 8", elems_wrap_to_four, LM_MALFORMED, "the product of its shape overflows"},
    {"G12 a zero hides an overflow", zero_hides_overflow, LM_MALFORMED, "the product of its shape overflows"},
    {"G13 data end behind the file", data_behind_end, LM_MALFORMED, "tensor 't': its data (65 bytes at 64) end beyond"},
    {"G13 offset behind the file", offset_behind_end, LM_MALFORMED, "end beyond the file of 128 bytes"},
    {"G13 offset far away", offset_far, LM_MALFORMED, "end beyond the file"},
    {"G13 no data at all", no_data, LM_MALFORMED, "end beyond the file"},
    {"G13 overlapping tensors", overlap, LM_MALFORMED, "tensors 'low' and 'high' overlap"},
    {"G14 alignment 0", alignment_0, LM_MALFORMED, "general.alignment is 0"},
    {"G14 alignment 4", alignment_4, LM_MALFORMED, "general.alignment is 4"},
    {"G14 alignment 13", alignment_13, LM_MALFORMED, "general.alignment is 13"},
    {"G14 alignment 2^31", alignment_huge, LM_MALFORMED, "general.alignment is 2147483648"},
    {"G14 alignment u64", alignment_u64, LM_MALFORMED, "'general.alignment' has type u64, expected u32"},
    {"G14 alignment i32", alignment_i32, LM_MALFORMED, "'general.alignment' has type i32, expected u32"},
    {"G14 alignment str", alignment_str, LM_MALFORMED, "'general.alignment' has type str, expected u32"},
    {"G14 unaligned offset", offset_unaligned, LM_MALFORMED, "offset 8 is not a multiple of the alignment 32"},
    {"G15 value type 13", value_type_13, LM_MALFORMED, "value type 13 is unknown"},
    {"G15 value type -1", value_type_negative, LM_MALFORMED, "value type 4294967295 is unknown"},
    {"G15 element type 13", elem_type_13, LM_MALFORMED, "array element type 13 is unknown"},
    {"G15 element type -2^31", elem_type_negative, LM_MALFORMED, "array element type 2147483648 is unknown"},
    {"G15 tensor type 43", type_43, LM_UNSUPPORTED, "'t': type id 43 is unknown"},
    {"G15 tensor type -1", type_negative, LM_UNSUPPORTED, "type id 4294967295 is unknown"},
    {"G15 removed type", type_removed, LM_UNSUPPORTED, "type Q4_2 (id 4) was removed"},
    {"G15 removed repacked type", type_removed_repacked, LM_UNSUPPORTED, "type Q4_0_4_4 (id 31) was removed"},
    {"G15 bool 2", bool_2, LM_MALFORMED, "a bool is 2"},
    {"G15 bool 255 in an array", bool_in_array, LM_MALFORMED, "a bool is 255"},
    {"G16 empty key", key_empty, LM_MALFORMED, "pair 1 of 1: the key is empty"},
    {"G16 NUL in a key", key_nul, LM_MALFORMED, "holds a NUL byte or is not UTF-8"},
    {"G16 key not UTF-8", key_not_utf8, LM_MALFORMED, "holds a NUL byte or is not UTF-8"},
    {"G16 key too long", key_long, LM_MALFORMED, "the key has 65536 bytes"},
    {"G17 array of arrays", array_of_arrays, LM_UNSUPPORTED, "an array of arrays"},
    {"G17 gigabytes from 160 bytes", array_bomb, LM_MALFORMED, "1073741824 elements of u8"},
    {"G18 key twice", key_twice, LM_MALFORMED, "key 'k' appears twice"},
    {"G18 tensor twice", tensor_twice, LM_MALFORMED, "tensor 'same' appears twice"},
    {"G19 four bytes", only_magic, LM_MALFORMED, "ends inside the header"},
    {"G19 eight bytes", only_version, LM_MALFORMED, "ends inside the header"},
    {"G19 sixteen bytes", only_one_count, LM_MALFORMED, "ends inside the header"},
    {"version 0", version_0, LM_UNSUPPORTED, "GGUF version 0"},
    {"version 4", version_4, LM_UNSUPPORTED, "GGUF version 4"},
    {"version 4, big-endian", version_4_big, LM_UNSUPPORTED, "GGUF version 4"},
    {"tensor without name", name_empty, LM_MALFORMED, "empty name"},
    {"name not UTF-8", name_not_utf8, LM_MALFORMED, "'w\\x80': the name is not UTF-8"},
    {"NUL in a name", name_nul, LM_MALFORMED, "holds a NUL byte"},
    {"row of half a block", row_not_whole, LM_MALFORMED, "rows of 16 are not whole Q4_0 blocks of 32"},
};

static void bad_gguf_files_are_refused(void **state)
{
    (void)state;
    const char *path = path_in(dir, "bad.gguf");

    for (size_t i = 0; i < sizeof gguf_cases / sizeof gguf_cases[0]; i++) {
        struct bytes b = {0};
        gguf_cases[i].build(&b);
        write_file(path, b.data, b.n);
        bytes_free(&b);
        open_fails(path, gguf_cases[i].code, gguf_cases[i].reason);
    }
}

/* G11: what is odd but sound. No division by what the file says. */
static void empty_and_scalar_gguf_tensors_open(void **state)
{
    (void)state;
    struct bytes b = {0};

    put_gguf(&b, 3, 0);
    put_gguf_tensor(&b, "empty", 2, 0, 5, 0, 0);
    put_gguf_tensor(&b, "scalar", 0, 0, 0, 0, 0);
    put_gguf_tensor(&b, "quant", 2, 32, 0, 2, 32);
    pad_to(&b, 32);
    put_zeros(&b, 32);
    write_file(path_in(dir, "odd.gguf"), b.data, b.n);
    bytes_free(&b);
    struct lm_model *m = open_ok(path_in(dir, "odd.gguf"));
    assert_int_equal(lm_model_find(m, "empty")->n_elems, 0);
    assert_int_equal(lm_model_find(m, "scalar")->n_elems, 1);
    assert_int_equal(lm_model_find(m, "quant")->n_bytes, 0);
    lm_model_close(m);
}

/* ---- split sets */

static void put_split(struct bytes *b, uint64_t no, uint64_t count, uint64_t total, const char *tensor)
{
    put_gguf(b, 1, 3);
    put_key(b, "split.no", LM_META_U16);
    put_u16(b, (uint16_t)no);
    put_key(b, "split.count", LM_META_U16);
    put_u16(b, (uint16_t)count);
    put_key(b, "split.tensors.count", LM_META_I32);
    put_u32(b, (uint32_t)total);
    put_gguf_tensor(b, tensor, 1, 1, 0, 24, 0);
    pad_to(b, 32);
    put_zeros(b, 32);
}

static void write_part(const char *name, uint64_t no, uint64_t count, uint64_t total, const char *tensor)
{
    struct bytes b = {0};

    put_split(&b, no, count, total, tensor);
    write_file(path_in(dir, name), b.data, b.n);
    bytes_free(&b);
}

static void broken_split_sets_are_refused(void **state)
{
    (void)state;
    const char *one = path_in(dir, "s-00001-of-00002.gguf"), *two = path_in(dir, "s-00002-of-00002.gguf");

    write_part("s-00001-of-00002.gguf", 0, 2, 2, "a");
    open_fails(one, LM_MISSING, "1 of 2 parts are missing: s-00002-of-00002.gguf");
    open_fails(one, LM_MISSING, "1 of 2 parts are missing");
    write_part("s-00002-of-00002.gguf", 0, 2, 2, "b");
    open_fails(one, LM_MISMATCH, "its name says part 2 of 2, its metadata (split.no 0, split.count 2)");
    write_part("s-00002-of-00002.gguf", 1, 3, 2, "b");
    open_fails(one, LM_MISMATCH, "split.count 3");
    write_part("s-00002-of-00002.gguf", 1, 2, 2, "a");
    open_fails(one, LM_MALFORMED, "tensor 'a' appears twice");
    write_part("s-00001-of-00002.gguf", 0, 2, 3, "a");
    write_part("s-00002-of-00002.gguf", 1, 2, 3, "b");
    open_fails(two, LM_MISMATCH, "split.tensors.count is 3, the 2 parts hold 2 tensors");
    write_part("renamed.gguf", 1, 2, 2, "b");
    open_fails(path_in(dir, "renamed.gguf"), LM_USAGE, "a part of a set of 2 files");
    assert_int_equal(remove(one), 0);
    open_fails(two, LM_MISSING, "1 of 2 parts are missing: s-00001-of-00002.gguf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_gguf_files_are_refused),
        cmocka_unit_test(empty_and_scalar_gguf_tensors_open),
        cmocka_unit_test(broken_split_sets_are_refused),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
