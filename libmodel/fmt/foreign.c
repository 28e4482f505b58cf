/* Files that people give us and that are something else: each is named, with
 * what to do, because "bad magic" helps nobody. */
#include <strings.h>

#include "libmodel/fmt/fmt.h"
#include "libmodel/parse/zip.h"

static bool at(struct lm_span f, size_t offset, const char *bytes, size_t n)
{
    return f.size >= offset && f.size - offset >= n && memcmp(f.data + offset, bytes, n) == 0;
}

/* Bytes anywhere in the first `within` bytes. */
static bool near_start(struct lm_span f, size_t within, const char *bytes)
{
    return memmem(f.data, f.size < within ? f.size : within, bytes, strlen(bytes)) != NULL;
}

static const struct {
    size_t offset;
    const char *bytes;
    size_t n;
    const char *name;
} magics[] = {
#define MAGIC(offset, bytes, name) {offset, bytes, sizeof bytes - 1, name}
    MAGIC(0, "algg", "a LoRA adapter of 2023, before GGUF (magic 'ggla'); convert the original adapter again"),
    MAGIC(0, "FUGG", "a GGUF file with its magic reversed, written by a program that mixed up byte orders; "
          "GGUF always begins with the bytes 'GGUF'"),
    MAGIC(0, "\x1f\x8b", "a gzip archive; unpack it first"),
    MAGIC(0, "\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it first"),
    MAGIC(0, "\xfd" "7zXZ", "an xz archive; unpack it first"),
    MAGIC(0, "BZh", "a bzip2 archive; unpack it first"),
    MAGIC(0, "7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    MAGIC(0, "Rar!", "a RAR archive; unpack it first"),
    MAGIC(257, "ustar", "a tar archive; unpack it first"),
    MAGIC(4, "TFL3", "a TensorFlow Lite model, which is not read"),
    MAGIC(0, "\x7f" "ELF", "an executable program, not a model"),
    MAGIC(0, "%PDF", "a PDF document, not a model"),
#undef MAGIC
};

static bool is_text_start(struct lm_span f, const char *word)
{
    size_t i = at(f, 0, "\xef\xbb\xbf", 3) ? 3 : 0, n = strlen(word);

    while (i < f.size && (f.data[i] == ' ' || f.data[i] == '\n' || f.data[i] == '\r' || f.data[i] == '\t'))
        i++;
    return f.size - i >= n && strncasecmp((const char *)f.data + i, word, n) == 0;
}

/* Three protobuf messages begin with a small version in field 1 and something in
 * field 2: ONNX has a short text there (who made it), Core ML a message whose
 * field 1 is a message, TensorFlow's SavedModel a graph, which is long. */
static const char *protobuf_name(struct lm_span f)
{
    if (f.size <= 16 || f.data[0] != 0x08 || f.data[1] < 1 || f.data[1] > 20 || f.data[2] != 0x12)
        return NULL;
    size_t body = f.data[3] < 0x80 ? 4 : 5;
    if (f.data[1] == 1 && f.data[3] >= 0x80)
        return "a TensorFlow SavedModel graph, which is not read";
    if (f.data[body] == 0x0a)
        return "a Core ML model, which is not read";
    return f.data[3] < 64 ? "an ONNX model, which is not read" : NULL;
}

/* A map from a short word to a map. */
static bool is_flax(struct lm_span f)
{
    if (f.size < 16 || (f.data[0] & 0xf0) != 0x80 || (f.data[1] & 0xe0) != 0xa0)
        return false;
    size_t n = f.data[1] & 0x1f;
    for (size_t i = 0; i < n; i++)
        if (2 + i >= f.size || !((f.data[2 + i] >= 'a' && f.data[2 + i] <= 'z') || f.data[2 + i] == '_'))
            return false;
    return n > 0 && 2 + n < f.size && ((f.data[2 + n] & 0xf0) == 0x80 || f.data[2 + n] == 0xde);
}

static bool ends_with(struct lm_span f, const char *bytes, size_t n)
{
    return f.size >= n && memcmp(f.data + f.size - n, bytes, n) == 0;
}

/* "version https://git-lfs…\noid sha256:…\nsize 4540516344\n" */
static int refuse_pointer(struct lm_span f, struct lm_err *e)
{
    const uint8_t *line = memmem(f.data, f.size < 1024 ? f.size : 1024, "\nsize ", 6);
    uint64_t n = 0;

    for (size_t i = line ? (size_t)(line - f.data) + 6 : f.size; i < f.size && f.data[i] >= '0' && f.data[i] <= '9'; i++)
        if (!lm_mul_u64(n, 10, &n) || !lm_add_u64(n, (uint64_t)(f.data[i] - '0'), &n))
            break;
    return lm_err_set(e, LM_UNSUPPORTED, "this is a Git LFS pointer of %zu bytes, not the model itself; fetch the real file "
                      "of %llu bytes with 'git lfs pull'", f.size, (unsigned long long)n);
}

/* A SentencePiece model begins with its first piece, nearly always <unk>. */
static bool is_sentencepiece(struct lm_span f)
{
    return f.size > 16 && f.data[0] == 0x0a && f.data[2] == 0x0a && near_start(f, 16, "<unk>");
}

static bool is_pickle(struct lm_span f)
{
    return f.size > 2 && f.data[0] == 0x80 && f.data[1] >= 2 && f.data[1] <= 5;
}

static const char *text_name(struct lm_span f)
{
    if (is_text_start(f, "<?xml") && near_start(f, 4096, "<net "))
        return "an OpenVINO model, which is not read";
    if (is_text_start(f, "<!doctype html") || is_text_start(f, "<html") || is_text_start(f, "<?xml"))
        return "a web page (HTML or XML), not a model: the download got an error or a login page";
    if (!is_text_start(f, "{") && !is_text_start(f, "["))
        return NULL;
    if (near_start(f, 64, "\"error\"") || near_start(f, 64, "\"message\""))
        return "a server's error message in JSON, not a model: the download failed";
    return "JSON text without a weight_map, not a model; give the model's folder or its tensor file";
}

static const char *foreign_name(struct lm_span f)
{
    if (f.size == 0)
        return "an empty file";
    for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++)
        if (at(f, magics[i].offset, magics[i].bytes, magics[i].n))
            return magics[i].name;
    if (at(f, 0, "PK\3\4", 4))
        return "a zip archive; if it is a packed model, unpack it first";
    if (ends_with(f, "\x57\xfb\x80\x8b\x24\x75\x47\xdb", 8))
        return "the index of a TensorFlow checkpoint, which is not read";
    if (is_pickle(f))
        return "a Python pickle, which is not read";
    const char *protobuf = protobuf_name(f);
    if (protobuf)
        return protobuf;
    if (is_sentencepiece(f))
        return "a SentencePiece tokenizer, not a model with tensors; lm-vocab and lm-tokenize open it";
    if (is_flax(f))
        return "a Flax checkpoint (msgpack), which is not read";
    return text_name(f);
}

bool lmi_refuse_foreign(struct lm_span f, struct lm_err *e)
{
    static const char pointer[] = "version https://git-lfs.github.com/spec/";
    const char *name = foreign_name(f);

    if (at(f, 0, pointer, sizeof pointer - 1))
        refuse_pointer(f, e);
    else if (name)
        lm_err_set(e, LM_UNSUPPORTED, "this is %s", name);
    else
        return false;
    return true;
}
