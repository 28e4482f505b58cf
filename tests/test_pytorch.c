/* PyTorch files: values of every kind of view and every form of the container;
 * pickles and zips that are refused, each for its reason. */
#include "tests/zips.h"

#include <sys/mman.h>

#include "libmodel/libmodel.h"

#define FIXTURES "tests/fixtures/containers/"

static void all_forms_give_the_same_values(void **state)
{
    (void)state;
    static const struct { const char *file; size_t n; } files[] = {
        {"plain.pt", 22}, {"deflated.pt", 22}, {"streaming.pt", 22}, {"protocol4.pt", 22}, {"legacy.pt", 22},
        {"big.pt", 5}, {"wide.pt", 4}, {"quantized.pt", 3}, {"checkpoint.pt", 3}, {"script.pt", 7}, {"small.pt", 2},
        {"small-deflated.pt", 2}, {"small-legacy.pt", 2},
        {"small-legacy-3.pt", 2}, {"small-legacy-4.pt", 2}, {"small-legacy-5.pt", 2},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[200], expected[240];
        snprintf(path, sizeof path, FIXTURES "%s", files[i].file);
        snprintf(expected, sizeof expected, "%s.expected.safetensors", path);
        assert_int_equal(assert_same_tensors(path, expected), files[i].n);
    }
}

static void a_sharded_set_is_one_model(void **state)
{
    (void)state;
    assert_same_tensors(FIXTURES "sharded-bin/pytorch_model.bin.index.json", FIXTURES "plain.pt.expected.safetensors");
    assert_same_tensors(FIXTURES "sharded-bin", FIXTURES "plain.pt.expected.safetensors");
}

static void plain_tensors_are_used_in_place(void **state)
{
    (void)state;
    struct lm_model *m = open_ok(FIXTURES "plain.pt");
    static const char *const in_place[] = {"plain", "bf16", "base", "tied", "later.rows", "parameter", "scalar"},
                      *const made[] = {"transposed", "columns", "every.second", "repeated", "permuted"};

    assert_int_equal(lm_model_n_files(m), 2);
    assert_true(lm_model_file(m, 1)->made);
    for (size_t i = 0; i < sizeof in_place / sizeof in_place[0]; i++)
        assert_int_equal(lm_model_find(m, in_place[i])->file, 0);
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++)
        assert_int_equal(lm_model_find(m, made[i])->file, 1);
    assert_ptr_equal(lm_model_find(m, "base")->data, lm_model_find(m, "tied")->data);
    lm_model_close(m);
}

static void headers_alone_compute_nothing(void **state)
{
    (void)state;
    struct lm_model *m;
    struct lm_err e = {0};

    assert_int_equal(lm_model_open_headers(&m, FIXTURES "deflated.pt", &e), 0);
    const struct lm_tensor *t = lm_model_find(m, "plain");
    assert_int_equal(t->n_bytes, 48);
    for (size_t i = 0; i < t->n_bytes; i++)
        assert_int_equal(t->data[i], 0);
    assert_int_equal(lm_model_check_unchanged(m, &e), 0);
    lm_model_close(m);
}

static void a_checkpoint_lists_the_rest_apart(void **state)
{
    (void)state;
    struct lm_model *m = open_ok(FIXTURES "checkpoint.pt");
    const struct lm_meta *meta = lm_model_meta(m);
    const struct lm_meta_value *v = lm_meta_get(meta, "pytorch.not_model_tensors");
    uint64_t epoch = 0;
    double loss = 0;

    assert_non_null(v);
    assert_int_equal(v->n, 9); /* step, exp_avg, exp_avg_sq of three parameters */
    assert_true(lm_span_eq(v->strs[1], lm_span_str("optimizer.state.0.exp_avg F32 [3, 4]")));
    assert_int_equal(lm_meta_get_u64(meta, "pytorch.epoch", &epoch, NULL), 1);
    assert_int_equal(epoch, 7);
    assert_int_equal(lm_meta_get_f64(meta, "pytorch.loss", &loss, NULL), 1);
    assert_true(loss == 0.25);
    lm_model_close(m);
}

/* ---- pickles, in a sound zip with a storage of 16 bytes */

#define P(s) s, sizeof s - 1
#define PROTO "\x80\x02"
#define STORAGE_OF(key, n) "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" key "X\3\0\0\0cpuK" n "tQ"
#define TENSOR(key, n, offset, size, stride) \
    "ctorch._utils\n_rebuild_tensor_v2\n" STORAGE_OF(key, n) "K" offset size stride "\x89" "ccollections\nOrderedDict\n)RtR"
#define DICT(body) PROTO "}X\1\0\0\0wq\1" body "s."
#define SOUND TENSOR("0", "\4", "\0", "K\4\x85", "K\1\x85")

static const struct {
    const char *pickle;
    size_t n;
    enum lm_code code;
    const char *reason;
} pickles[] = {
    {P(""), LM_MALFORMED, "cut short"},
    {P(PROTO), LM_MALFORMED, "cut short"},
    {P(PROTO "}"), LM_MALFORMED, "cut short"},
    {P(PROTO "}."), LM_UNSUPPORTED, "holds no tensors"},
    {P(PROTO "."), LM_MALFORMED, "other than one value"},
    {P(PROTO "}}."), LM_MALFORMED, "other than one value"},
    {P(PROTO "(}."), LM_MALFORMED, "other than one value"},
    {P("\x80\x06}."), LM_UNSUPPORTED, "protocol 6"},
    {P(DICT(SOUND) "N."), LM_MALFORMED, "2 bytes follow the end of the pickle"},
    /* code: named, refused, never looked at */
    {P(PROTO "cos\nsystem\nX\2\0\0\0id\x85R."), LM_UNSUPPORTED, "os.system"},
    {P(PROTO "cposix\nsystem\nX\2\0\0\0id\x85R."), LM_UNSUPPORTED, "posix.system"},
    {P(PROTO "cbuiltins\neval\n."), LM_UNSUPPORTED, "builtins.eval"},
    {P(PROTO "c__builtin__\nexec\n."), LM_UNSUPPORTED, "__builtin__.exec"},
    {P(PROTO "ctorch\nload\n."), LM_UNSUPPORTED, "torch.load"},
    {P(PROTO "ctorch._utils\nsys.modules\n."), LM_UNSUPPORTED, "torch._utils.sys.modules"},
    {P(PROTO "ctorch\n_utils._rebuild_tensor_v2\n."), LM_UNSUPPORTED, "torch._utils._rebuild_tensor_v2"},
    {P(PROTO "ctorch._Utils\n_rebuild_tensor_v2\n."), LM_UNSUPPORTED, "torch._Utils"},
    {P(PROTO "ctorch._utils\n_rebuild_tensor_v2 \n."), LM_UNSUPPORTED, "_rebuild_tensor_v2 "},
    {P(PROTO "ctorch._utils\n_rebuild_tensor_v22\n."), LM_UNSUPPORTED, "_rebuild_tensor_v22"},
    {P(PROTO "c\n\n."), LM_UNSUPPORTED, "it wants Python's"},
    {P(PROTO "c__torch__\nM\n."), LM_UNSUPPORTED, "__torch__.M"},
    {P(PROTO "X\2\0\0\0osX\6\0\0\0system\x93."), LM_UNSUPPORTED, "os.system"},
    {P(PROTO "NX\6\0\0\0system\x93."), LM_MALFORMED, "a name is no string"},
    {P(PROTO "X\2\0\0\0os\x93."), LM_MALFORMED, "fewer values"},
    {P(PROTO "cos\nsystem"), LM_MALFORMED, "cut short"},
    {P(PROTO "(S'id'\nios\nsystem\n."), LM_UNSUPPORTED, "opcode 0x53"},
    {P(PROTO "(ios\nsystem\n."), LM_UNSUPPORTED, "opcode 0x69"},
    {P(PROTO "(cargparse\nNamespace\no."), LM_UNSUPPORTED, "opcode 0x6f"},
    {P(PROTO "\x82\1."), LM_UNSUPPORTED, "opcode 0x82"},
    {P(PROTO "P0\n."), LM_UNSUPPORTED, "opcode 0x50"},
    {P(PROTO "cargparse\nNamespace\n)}\x92."), LM_UNSUPPORTED, "opcode 0x92"},
    {P(PROTO "N2."), LM_UNSUPPORTED, "opcode 0x32"},
    {P(PROTO "N0}."), LM_UNSUPPORTED, "opcode 0x30"},
    {P(PROTO "I99999\n."), LM_UNSUPPORTED, "opcode 0x49"},
    {P(PROTO "L99999L\n."), LM_UNSUPPORTED, "opcode 0x4c"},
    {P(PROTO "\xff."), LM_UNSUPPORTED, "opcode 0xff"},
    /* calls */
    {P(PROTO "N)R."), LM_MALFORMED, "something that is no constructor"},
    {P(PROTO "ctorch\nfloat32\n)R."), LM_MALFORMED, "torch.float32 is called"},
    {P(PROTO "ctorch\nFloatStorage\n)R."), LM_MALFORMED, "torch.FloatStorage is called"},
    {P(PROTO "ccollections\nOrderedDict\n]R."), LM_MALFORMED, "without a tuple"},
    {P(PROTO "ccollections\nOrderedDict\nN\x85R."), LM_MALFORMED, "no list of pairs"},
    {P(PROTO "ccollections\nOrderedDict\n]Na\x85R."), LM_MALFORMED, "no list of pairs"},
    {P(PROTO "ctorch\nSize\n)R."), LM_MALFORMED, "called without arguments"},
    {P(PROTO "ctorch._utils\n_rebuild_tensor_v2\n)R."), LM_MALFORMED, "not a storage, an offset"},
    {P(PROTO "ctorch._utils\n_rebuild_parameter\n)R."), LM_MALFORMED, "no tensor"},
    {P(PROTO "ctorch._utils\n_rebuild_tensor_v3\n)R."), LM_MALFORMED, "no dtype"},
    {P(PROTO "ctorch._utils\n_rebuild_sparse_tensor\n)R."), LM_UNSUPPORTED, "sparse"},
    {P(PROTO "ctorch._tensor\n_rebuild_from_type_v2\n)R."), LM_UNSUPPORTED, "subclass"},
    /* containers */
    {P(PROTO "Ns."), LM_MALFORMED, "fewer values"},
    {P(PROTO "s."), LM_MALFORMED, "fewer values"},
    {P(PROTO "a."), LM_MALFORMED, "fewer values"},
    {P(PROTO "]NNs."), LM_MALFORMED, "no dict"},
    {P(PROTO "](NNu."), LM_MALFORMED, "no dict"},
    {P(PROTO "}(Nu."), LM_MALFORMED, "a key without a value"},
    {P(PROTO "}Na."), LM_MALFORMED, "no list"},
    {P(PROTO "}(Ne."), LM_MALFORMED, "no list"},
    {P(PROTO "u."), LM_MALFORMED, "no mark"},
    {P(PROTO "t."), LM_MALFORMED, "no mark"},
    {P(PROTO "(\x85."), LM_MALFORMED, "fewer values"},
    {P(PROTO "N}b."), LM_MALFORMED, "something that has none"},
    {P(PROTO "h\5."), LM_MALFORMED, "memo entry 5 was never stored"},
    {P(PROTO "Nr\xff\xff\xff\xff."), LM_LIMIT, "memo entry 4294967295"},
    {P(PROTO "Nr\0\0\x20\0."), LM_LIMIT, "memo entry 2097152"},
    {P(PROTO "q\0."), LM_MALFORMED, "fewer values"},
    {P(PROTO "]q\0h\0a."), LM_MALFORMED, "a cycle"},
    {P(PROTO "}q\0X\1\0\0\0ah\0s."), LM_MALFORMED, "a cycle"},
    {P(PROTO "X\xff\xff\xff\xff" "a."), LM_MALFORMED, "a string ends beyond the stream"},
    {P(PROTO "X\1\0\0\0\xff."), LM_MALFORMED, "not UTF-8"},
    {P(PROTO "\x95\xff\0\0\0\0\0\0\0."), LM_MALFORMED, "a frame ends beyond"},
    /* storages and tensors */
    {P(PROTO "NQ."), LM_MALFORMED, "not that of a storage"},
    {P(PROTO "(X\7\0\0\0storageNX\1\0\0\0" "0X\3\0\0\0cpuK\4tQ."), LM_MALFORMED, "no storage class"},
    {P(PROTO "(X\7\0\0\0storagectorch\nfloat32\nX\1\0\0\0" "0X\3\0\0\0cpuK\4tQ."), LM_MALFORMED, "no storage class"},
    {P(PROTO "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cpuJ\xff\xff\xff\xfftQ."), LM_MALFORMED, "makes no sense"},
    {P(PROTO "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cpu\x8a\x08\0\0\0\0\0\0\0\x7ftQ."), LM_MALFORMED, "makes no sense"},
    {P(PROTO "(X\7\0\0\0storagectorch\nComplexDoubleStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\1tQ."), LM_UNSUPPORTED, "ComplexDoubleStorage"},
    {P(DICT(TENSOR("7", "\4", "\0", "K\4\x85", "K\1\x85"))), LM_MISSING, "storage '7' is not in the file"},
    {P(DICT(TENSOR("0", "\5", "\0", "K\4\x85", "K\1\x85"))), LM_MALFORMED, "should have 20 bytes, the file gives it 16"},
    {P(DICT(TENSOR("0", "\3", "\0", "K\3\x85", "K\1\x85"))), LM_MALFORMED, "should have 12 bytes, the file gives it 16"},
    {P(DICT(TENSOR("0", "\4", "\1", "K\4\x85", "K\1\x85"))), LM_MALFORMED, "reaches element 5 of a storage of 16 bytes"},
    {P(DICT(TENSOR("0", "\4", "\0", "K\4\x85", "K\2\x85"))), LM_MALFORMED, "reaches element 7"},
    {P(DICT(TENSOR("0", "\4", "\0", "K\2K\2\x86", "K\1\x85"))), LM_MALFORMED, "a size and a stride"},
    {P(DICT(TENSOR("0", "\4", "\0", "J\xff\xff\xff\xff\x85", "K\1\x85"))), LM_MALFORMED, "a negative size"},
    {P(DICT(TENSOR("0", "\4", "\0", "K\4\x85", "J\xff\xff\xff\xff\x85"))), LM_MALFORMED, "a negative size, stride"},
    {P(DICT(TENSOR("0", "\4", "\0", "K\4\x85", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85"))), LM_MALFORMED, "strides overflow"},
    {P(DICT(TENSOR("0", "\4", "\0", "J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87", "K\0K\0K\0\x87"))), LM_MALFORMED, "overflows 64 bits"},
    {P(DICT(TENSOR("0", "\4", "\0", "J\xff\xff\xff\x7f\x85", "K\0\x85"))), LM_LIMIT, "repeats a storage of 16 bytes"},
    {P(DICT(TENSOR("0", "\4", "\0", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t"))), LM_LIMIT, "9 dimensions"},
    {P(PROTO "}(X\1\0\0\0w" SOUND "X\1\0\0\0w" SOUND "u."), LM_MALFORMED, "'w' appears twice"},
    {P(PROTO "}X\0\0\0\0" SOUND "s."), LM_MALFORMED, "an empty name"},
    {P(PROTO "}X\1\0\0\0\0" SOUND "s."), LM_MALFORMED, "NUL"},
};

static void torch_zip(struct bytes *b, const void *pickle, size_t n)
{
    struct member m[2] = {{.name = "archive/data.pkl"}, {.name = "archive/data/0"}};

    put(&m[0].data, pickle, n);
    put_zeros(&m[1].data, 16);
    put_zip(b, m, 2, NULL);
    members_free(m, 2);
}

static void bad_pickles_are_refused_by_name(void **state)
{
    (void)state;
    struct bytes b = {0};
    const char *path = path_in(dir, "pickle.pt");
    static const char sound[] = DICT(SOUND);

    torch_zip(&b, sound, sizeof sound - 1);
    write_file(path, b.data, b.n);
    lm_model_close(open_ok(path));
    for (size_t i = 0; i < sizeof pickles / sizeof pickles[0]; i++) {
        b.n = 0;
        torch_zip(&b, pickles[i].pickle, pickles[i].n);
        write_file(path, b.data, b.n);
        open_fails(path, pickles[i].code, pickles[i].reason);
    }
    bytes_free(&b);
}

/* ---- streams that ask for much with few bytes */

static void fails_with(const struct bytes *pickle, const char *reason)
{
    struct bytes b = {0};
    const char *path = path_in(dir, "large.pt");

    torch_zip(&b, pickle->data, pickle->n);
    write_file(path, b.data, b.n);
    open_fails(path, LM_LIMIT, reason);
    bytes_free(&b);
}

static void repeat(struct bytes *b, const char *bytes, size_t n_bytes, size_t n)
{
    put_text(b, PROTO);
    for (size_t i = 0; i < n; i++)
        put(b, bytes, n_bytes);
}

static void bombs_are_refused(void **state)
{
    (void)state;
    struct bytes b = {0};

    repeat(&b, P("]"), 2 << 20);
    fails_with(&b, "more objects");
    b.n = 0;
    repeat(&b, P("N"), 2 << 20);
    fails_with(&b, "more values on its stack");
    b.n = 0;
    repeat(&b, P("("), 1 << 20);
    fails_with(&b, "more marks");
    b.n = 0;
    put_text(&b, PROTO "]");
    for (size_t i = 0; i < 2 << 20; i++)
        put_text(&b, "Na");
    fails_with(&b, "more values");
    /* one tensor under a hundred thousand names */
    b.n = 0;
    put_text(&b, PROTO "}(X");
    put(&b, "\1\0\0\0w", 5);
    put(&b, SOUND "q\0", sizeof(SOUND "q\0") - 1);
    for (uint32_t i = 0; i < 100000; i++) {
        put_text(&b, "J");
        put_u32(&b, i);
        put(&b, "h\0", 2);
    }
    put_text(&b, "u.");
    fails_with(&b, "tensors, which a file of");
    /* nested tuples, deeper than any stack of ours */
    b.n = 0;
    put_text(&b, PROTO "N");
    for (size_t i = 0; i < 100000; i++)
        put_u8(&b, 0x85);
    put_text(&b, ".");
    fails_with(&b, "nested more than");
    /* a billion laughs: ten lists of ten of the list before */
    b.n = 0;
    put_text(&b, PROTO "]Naq");
    put_u8(&b, 0);
    for (uint8_t i = 0; i < 20; i++) {
        put_text(&b, "](");
        for (int j = 0; j < 10; j++) {
            put_text(&b, "h");
            put_u8(&b, i);
        }
        put_text(&b, "eq");
        put_u8(&b, (uint8_t)(i + 1));
    }
    put_text(&b, "\x85."); /* unbalanced on purpose: the stack keeps the lists */
    struct bytes fixed = {0};
    put_text(&fixed, PROTO "(");
    put(&fixed, b.data + 2, b.n - 4);
    put_text(&fixed, "t.");
    fails_with(&fixed, "unfolds to more values");
    bytes_free(&fixed);
    bytes_free(&b);
}

/* ---- zips */

/* A change of one field of a sound file. */
static const struct {
    size_t member;  /* 0 the pickle, 1 the storage; 2 the end record */
    bool central;
    size_t offset, width;
    uint64_t value;
    enum lm_code code;
    const char *reason;
} zips[] = {
    {0, false, 0, 4, 0x12345678, LM_UNSUPPORTED, "not a model"}, /* no zip any more */
    {1, false, 0, 4, 0x12345678, LM_MALFORMED, "no local header"},
    {1, false, 6, 2, 1, LM_MALFORMED, "another name, method or flags"},
    {1, false, 8, 2, 8, LM_MALFORMED, "another name, method or flags"},
    {1, false, 14, 4, 1, LM_MALFORMED, "other sizes or another CRC"},
    {1, false, 18, 4, 15, LM_MALFORMED, "other sizes"},
    {1, false, 22, 4, 17, LM_MALFORMED, "other sizes"},
    {1, false, 26, 2, 13, LM_MALFORMED, "another name"},
    {1, false, 28, 2, 1, LM_MALFORMED, "after its extra fields"},
    {1, false, 28, 2, 60000, LM_MALFORMED, "cut short"},
    {1, false, 30, 1, 'b', LM_MALFORMED, "another name"},
    {1, true, 8, 2, 1, LM_UNSUPPORTED, "encrypted"},
    {1, true, 8, 2, 0x20, LM_UNSUPPORTED, "flags 0x20"},
    {1, true, 8, 2, 0x40, LM_UNSUPPORTED, "flags 0x40"},
    {1, true, 8, 2, 8, LM_MALFORMED, "another name, method or flags"},
    {1, true, 10, 2, 12, LM_UNSUPPORTED, "method 12"},
    {1, true, 10, 2, 8, LM_MALFORMED, "another name, method"},
    {1, true, 20, 4, 17, LM_MALFORMED, "two sizes differ"},
    {1, true, 24, 4, 0, LM_MALFORMED, "two sizes differ"},
    {1, true, 24, 4, UINT32_MAX, LM_MALFORMED, "two sizes differ"},
    {1, true, 28, 2, 0, LM_MALFORMED, "the name is empty"},
    {1, true, 30, 2, 5, LM_MALFORMED, "cut short"},
    {1, true, 32, 2, 5, LM_MALFORMED, "cut short"},
    {1, true, 34, 2, 1, LM_MALFORMED, "of several parts"},
    {1, true, 38, 4, 0120777u << 16, LM_MALFORMED, "symbolic link"},
    {1, true, 42, 4, 0, LM_MALFORMED, "another name"},
    {1, true, 42, 4, 0x7fffffff, LM_MALFORMED, "begins beyond"},
    {1, true, 46, 1, '/', LM_MALFORMED, "absolute"},
    {1, true, 46, 1, '\\', LM_MALFORMED, "backslash"},
    {1, true, 46, 1, 0, LM_MALFORMED, "NUL"},
    {1, true, 46, 1, 0xff, LM_MALFORMED, "not UTF-8"},
    {1, true, 46, 8, 0x612f2e2e2f6b6b61, LM_MALFORMED, "out of its folder"}, /* "akk/../a" */
    {2, false, 4, 2, 1, LM_UNSUPPORTED, "one of several parts"},
    {2, false, 8, 2, 1, LM_UNSUPPORTED, "one of several parts"},
    {2, false, 8, 4, 0x00010001, LM_MALFORMED, "longer than its 1 members"},
    {2, false, 8, 4, 0x00030003, LM_MALFORMED, "no room for them"},
    {2, false, 8, 4, 0x70007000, LM_MALFORMED, "no room for them"},
    {2, false, 8, 4, 0xffffffff, LM_MALFORMED, "zip64 record that is not there"},
    {2, false, 12, 4, 5, LM_MALFORMED, "does not end where"},
    {2, false, 16, 4, 5, LM_MALFORMED, "does not end where"},
    {2, false, 16, 4, 0x7fffffff, LM_MALFORMED, "does not end where"},
    {2, false, 20, 2, 1, LM_MALFORMED, "directory, which is at its end, is missing"},
};

static void bad_zips_are_refused(void **state)
{
    (void)state;
    static const char sound[] = DICT(SOUND);
    const char *path = path_in(dir, "zip.pt");

    for (size_t i = 0; i < sizeof zips / sizeof zips[0]; i++) {
        struct bytes b = {0};
        torch_zip(&b, sound, sizeof sound - 1);
        size_t end = b.n - 22, at = end;
        if (zips[i].member < 2) {
            at = lm_load_u32le(b.data + end + 16) + (zips[i].member ? 46 + strlen("archive/data.pkl") : 0);
            if (!zips[i].central)
                at = lm_load_u32le(b.data + at + 42);
        }
        uint8_t value[8];
        lm_store_u64le(value, zips[i].value);
        memcpy(b.data + at + zips[i].offset, value, zips[i].width);
        write_file(path, b.data, b.n);
        open_fails(path, zips[i].code, zips[i].reason);
        bytes_free(&b);
    }
}

/* "archive/data/0" three times: twice the same name, and two in one place. */
static void members_may_not_share(void **state)
{
    (void)state;
    static const char sound[] = DICT(SOUND);
    struct bytes b = {0};
    struct member m[3] = {{.name = "archive/data.pkl"}, {.name = "archive/data/0"}, {.name = "archive/data/0"}};

    put(&m[0].data, sound, sizeof sound - 1);
    put_zeros(&m[1].data, 16);
    put_zip(&b, m, 3, NULL);
    write_file(path_in(dir, "twice.pt"), b.data, b.n);
    open_fails(path_in(dir, "twice.pt"), LM_MALFORMED, "two members have this name");
    b.n = 0;
    /* the second's local header inside the first's data */
    struct bytes inner = {0};
    struct member hidden[2] = {{.name = "archive/data/1"}, {.name = ""}};
    put_zip(&inner, hidden, 1, NULL);
    m[1].data.n = 0;
    put(&m[1].data, inner.data, 30 + strlen("archive/data/1"));
    m[2].name = "archive/data/1";
    size_t at[3];
    put_zip(&b, m, 3, at);
    size_t central = lm_load_u32le(b.data + b.n - 22 + 16) + 46 + 16 + 46 + 14;
    lm_store_u32le(b.data + central + 42, (uint32_t)(at[1] + 30 + strlen("archive/data/0")));
    write_file(path_in(dir, "overlap.pt"), b.data, b.n);
    open_fails(path_in(dir, "overlap.pt"), LM_MALFORMED, "overlaps another member");
    members_free(m, 3);
    bytes_free(&inner);
    bytes_free(&b);
}

static void the_end_must_be_the_only_one(void **state)
{
    (void)state;
    static const char sound[] = DICT(SOUND);
    struct bytes b = {0};

    torch_zip(&b, sound, sizeof sound - 1);
    size_t n = b.n;
    lm_store_u16le(b.data + n - 2, 22); /* a comment that is an end record */
    put_u32(&b, 0x06054b50);
    put_zeros(&b, 18);
    write_file(path_in(dir, "end.pt"), b.data, b.n);
    open_fails(path_in(dir, "end.pt"), LM_MALFORMED, "two archives in one");
    b.n = n;
    lm_store_u16le(b.data + n - 2, 0);
    put_text(&b, "more");
    write_file(path_in(dir, "end.pt"), b.data, b.n);
    open_fails(path_in(dir, "end.pt"), LM_MALFORMED, "something follows it");
    bytes_free(&b);
}

static void other_members_are_checked(void **state)
{
    (void)state;
    static const char sound[] = DICT(SOUND);
    struct bytes b = {0};
    struct member m[3] = {{.name = "archive/data.pkl"}, {.name = "archive/data/0"}, {.name = "archive/byteorder"}};

    put(&m[0].data, sound, sizeof sound - 1);
    put_zeros(&m[1].data, 16);
    put_text(&m[2].data, "middle");
    put_zip(&b, m, 3, NULL);
    write_file(path_in(dir, "order.pt"), b.data, b.n);
    open_fails(path_in(dir, "order.pt"), LM_MALFORMED, "neither 'little' nor 'big'");
    b.n = 0;
    m[2].name = "other/data.pkl";
    put_zip(&b, m, 3, NULL);
    write_file(path_in(dir, "order.pt"), b.data, b.n);
    open_fails(path_in(dir, "order.pt"), LM_MALFORMED, "2 folders with a data.pkl");
    members_free(m, 3);
    bytes_free(&b);
}

/* ---- every prefix, every bit, every field of whole files */

static void read_whole(struct bytes *b, const char *path)
{
    struct stat s;
    int fd = open(path, O_RDONLY);

    assert_true(fd >= 0 && fstat(fd, &s) == 0);
    put_zeros(b, (size_t)s.st_size);
    assert_int_equal(read(fd, b->data, b->n), s.st_size);
    close(fd);
}

static volatile uint64_t touched;

static bool opens_or_is_refused(const struct bytes *b)
{
    static int fd = -1;
    struct lm_model *m;
    struct lm_err e = {0};
    char path[64];

    if (fd < 0)
        fd = memfd_create("test", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)b->n), 0);
    assert_int_equal(pwrite(fd, b->data, b->n, 0), b->n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (lm_model_open(&m, path, &e) < 0) {
        assert_true(e.code != LM_OK && e.text[0] && lm_utf8_valid(lm_span_str(e.text)));
        return false;
    }
    for (size_t i = 0; i < lm_model_n_tensors(m); i++)
        for (uint64_t j = 0; j < lm_model_tensor(m, i)->n_bytes; j++)
            touched += lm_model_tensor(m, i)->data[j];
    lm_model_close(m);
    return true;
}

static const char *const whole[] = {FIXTURES "small.pt", FIXTURES "small-deflated.pt", FIXTURES "small-legacy.pt"};

static void every_prefix_is_refused(void **state)
{
    (void)state;

    for (size_t f = 0; f < sizeof whole / sizeof whole[0]; f++) {
        struct bytes b = {0};
        read_whole(&b, whole[f]);
        size_t n = b.n;
        assert_true(opens_or_is_refused(&b));
        for (b.n = 0; b.n < n; b.n++)
            if (opens_or_is_refused(&b))
                fail_msg("%s: the first %zu of %zu bytes open", whole[f], b.n, n);
        bytes_free(&b);
    }
}

static void every_flipped_bit_is_survived(void **state)
{
    (void)state;
    size_t n_refused = 0;

    for (size_t f = 0; f < sizeof whole / sizeof whole[0]; f++) {
        struct bytes b = {0};
        read_whole(&b, whole[f]);
        for (size_t bit = 0; bit < 8 * b.n; bit++) {
            b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            n_refused += !opens_or_is_refused(&b);
            b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        bytes_free(&b);
    }
    assert_true(n_refused > 10000);
}

static void every_field_with_boundary_values_is_survived(void **state)
{
    (void)state;
    static const uint64_t values[] = {0, 1, 0x7fff, 0x7fffffff, UINT32_MAX, 1ull << 32, 1ull << 62, INT64_MAX, UINT64_MAX};
    struct bytes b = {0};

    read_whole(&b, FIXTURES "small.pt");
    for (size_t at = 0; at + 8 <= b.n; at++) {
        uint8_t saved[8];
        memcpy(saved, b.data + at, 8);
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            lm_store_u64le(b.data + at, values[v]);
            opens_or_is_refused(&b);
            memcpy(b.data + at, saved, 8);
        }
    }
    bytes_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_forms_give_the_same_values),
        cmocka_unit_test(a_sharded_set_is_one_model),
        cmocka_unit_test(plain_tensors_are_used_in_place),
        cmocka_unit_test(headers_alone_compute_nothing),
        cmocka_unit_test(a_checkpoint_lists_the_rest_apart),
        cmocka_unit_test(bad_pickles_are_refused_by_name),
        cmocka_unit_test(bombs_are_refused),
        cmocka_unit_test(bad_zips_are_refused),
        cmocka_unit_test(members_may_not_share),
        cmocka_unit_test(the_end_must_be_the_only_one),
        cmocka_unit_test(other_members_are_checked),
        cmocka_unit_test(every_prefix_is_refused),
        cmocka_unit_test(every_flipped_bit_is_survived),
        cmocka_unit_test(every_field_with_boundary_values_is_survived),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
