/* Where a vocabulary comes from: GGUF metadata, the files beside a checkpoint,
 * or a tokenizer file on its own. The readers are in tok/. */
#include "libmodel/vocab.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/ranks.h"
#include "libmodel/tok/unicode.h"

const char *lm_piece_kind_name(enum lm_piece_kind k)
{
    static const char *const names[] = {"?", "normal", "unknown", "control", "user-defined", "unused", "byte"};

    return k >= LM_PIECE_NORMAL && k <= LM_PIECE_BYTE ? names[k] : names[0];
}

/* ---- which file to read */

/* Tokenizers we know by their file and do not read. */
static const char *const foreign_files[][2] = {
    {"sentencepiece.bpe.model", "sentencepiece.bpe.model, whose ids are shifted by code"},
};

static int foreign(struct lmi_files f, struct lm_err *e)
{
    struct lm_span text;

    for (size_t i = 0; i < sizeof foreign_files / sizeof *foreign_files; i++) {
        int rc = f.get(f.user, foreign_files[i][0], &text, e);
        if (rc != 0)
            return rc < 0 ? -1
                          : lm_err_set(e, LM_UNSUPPORTED, "the tokenizer is %s, which is not handled; tokenizer.model, "
                                                          "tokenizer.json or vocab.json with merges.txt are",
                                       foreign_files[i][1]);
    }
    return 0;
}

static int read_spm(struct lmi_vocab *b, struct lm_span file, struct lm_err *e)
{
    return lmi_spm_read(b, file, e) < 0 ? lm_err_prefix(e, "tokenizer.model") : 1;
}

static bool is_rwkv_name(const char *name)
{
    return strncmp(name, "rwkv_vocab", 10) == 0 && strlen(name) > 14 && strcmp(name + strlen(name) - 4, ".txt") == 0;
}

/* T5's, BERT's and RWKV's own files. rc as in read_files. */
static int read_words(struct lmi_vocab *b, struct lmi_files f, struct lm_err *e)
{
    static const char rwkv[] = "rwkv_vocab_v20230424.txt";
    struct lm_span text;
    int rc = f.get(f.user, "spiece.model", &text, e);

    if (rc != 0)
        return rc < 0 ? -1 : read_spm(b, text, e);
    rc = f.get(f.user, "vocab.txt", &text, e);
    if (rc != 0)
        return rc < 0 || lmi_bert_vocab_read(b, text, f, e) < 0 ? -1 : 1;
    rc = f.get(f.user, rwkv, &text, e);
    if (rc != 0)
        return rc < 0 ? -1 : lmi_rwkv_read(b, text, e) < 0 ? lm_err_prefix(e, rwkv) : 1;
    return 0;
}

/* 1 read into b, 0 no tokenizer among the files. tokenizer.model rules when it
 * is there, unless it is not SentencePiece's and tokenizer.json can stand in. */
static int read_files(struct lmi_vocab *b, struct lmi_files f, struct lm_err *e)
{
    struct lm_span model, json, vocab, merges, tekken;
    int has_model = f.get(f.user, "tokenizer.model", &model, e);
    int has_json = has_model < 0 ? -1 : f.get(f.user, "tokenizer.json", &json, e);

    if (has_model < 0 || has_json < 0)
        return -1;
    bool spm = has_model && model.size > 0 && model.data[0] == 0x0a; /* field 1: a piece */
    if (has_model && !spm && !has_json && lmi_is_tiktoken(model))
        return lmi_tiktoken_read(b, model, "tokenizer.model", NULL, f, e) < 0 ? lm_err_prefix(e, "tokenizer.model") : 1;
    if (has_model && (spm || !has_json))
        return read_spm(b, model, e);
    if (has_json)
        return lmi_tokenizer_json_read(b, json, e) < 0 ? -1 : 1;
    int has_tekken = f.get(f.user, "tekken.json", &tekken, e);
    if (has_tekken != 0)
        return has_tekken < 0 || lmi_tekken_read(b, tekken, e) < 0 ? -1 : 1;
    int has_vocab = f.get(f.user, "vocab.json", &vocab, e);
    int has_merges = has_vocab <= 0 ? has_vocab : f.get(f.user, "merges.txt", &merges, e);
    if (has_vocab < 0 || has_merges < 0)
        return -1;
    if (has_vocab && has_merges)
        return lmi_vocab_merges_read(b, vocab, merges, e) < 0 ? -1 : 1;
    int has_words = read_words(b, f, e);
    return has_words != 0 ? has_words : foreign(f, e);
}

/* Finishes b or frees it; rc as in read_files. */
static int deliver(struct lm_vocab **out, struct lmi_vocab *b, int rc, struct lm_err *e)
{
    if (rc > 0 && lmi_vocab_finish(b, e) < 0)
        rc = -1;
    if (rc > 0)
        *out = &b->v;
    else
        lm_vocab_free(&b->v);
    return rc;
}

/* ---- from a model */

static int get_sidecar(void *user, const char *name, struct lm_span *out, struct lm_err *e)
{
    return lm_model_sidecar(user, name, out, e);
}

int lm_vocab_of_model(struct lm_vocab **out, struct lm_model *m, struct lm_err *e)
{
    struct lmi_files files = {get_sidecar, m};
    struct lmi_vocab *b = lmi_vocab_new();

    *out = NULL;
    if (!b)
        return lmi_nomem_vocab(e);
    int rc = lmi_gguf_vocab_read(b, lm_model_meta(m), e);
    if (rc > 0)
        rc = lmi_vocab_configure_prefix(b, files, e) < 0 ? -1 : 1;
    else if (rc == 0) {
        rc = read_files(b, files, e);
        if (rc > 0)
            rc = lmi_vocab_configure(b, files, e) < 0 ? -1 : 1;
    }
    rc = deliver(out, b, rc, e);
    return rc < 0 ? lm_err_prefix(e, "%s", lm_model_path(m)) : rc;
}

/* ---- from a path */

enum { MAX_FILE = 512 << 20 };

/* A folder whose files are read once and kept until the end. */
struct folder {
    const char *dir;
    struct lm_arena arena;
    const struct lm_vocab_options *options; /* NULL: none */
};

static int read_fd(int fd, const char *path, struct lm_arena *a, struct lm_span *out, struct lm_err *e)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return lm_err_errno(e, "%s", path);
    if (!S_ISREG(st.st_mode))
        return lm_err_set(e, LM_UNSUPPORTED, "%s: not a regular file", path);
    if (st.st_size > MAX_FILE)
        return lm_err_set(e, LM_LIMIT, "%s: %lld bytes, a tokenizer file has at most %d", path, (long long)st.st_size,
                          MAX_FILE);
    size_t size = (size_t)st.st_size, n = 0;
    uint8_t *data = lm_arena_alloc(a, size + 1);
    if (!data)
        return lmi_nomem_vocab(e);
    while (n < size) {
        ssize_t got = read(fd, data + n, size - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? lm_err_errno(e, "%s", path)
                           : lm_err_set(e, LM_IO, "%s: became shorter while it was read", path);
        n += (size_t)got;
    }
    *out = lm_span_of(data, size);
    return 1;
}

static int read_path(const char *path, struct lm_arena *a, struct lm_span *out, struct lm_err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return errno == ENOENT ? 0 : lm_err_errno(e, "%s", path);
    int rc = read_fd(fd, path, a, out, e);
    close(fd);
    return rc;
}

static int get_from_folder(void *user, const char *name, struct lm_span *out, struct lm_err *e)
{
    struct folder *f = user;
    char path[4096];

    if (snprintf(path, sizeof path, "%s/%s", f->dir, name) >= (int)sizeof path)
        return lm_err_set(e, LM_LIMIT, "%s: the path is too long", f->dir);
    return read_path(path, &f->arena, out, e);
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);

    return n >= k && strcmp(s + n - k, end) == 0;
}

/* The folder of a file, and its base name. */
static int split_path(const char *path, char *dir, size_t size, const char **base, struct lm_err *e)
{
    const char *slash = strrchr(path, '/');
    int n = slash ? (int)(slash - path) : 0;

    *base = slash ? slash + 1 : path;
    if (snprintf(dir, size, "%.*s", slash ? (n ? n : 1) : 1, slash ? path : ".") >= (int)size)
        return lm_err_set(e, LM_LIMIT, "%s: the path is too long", path);
    return 0;
}

static bool is_rank_file(const char *base)
{
    return ends_with(base, ".tiktoken");
}

/* A file named on the command line rules over its neighbours; those still say
 * which pieces are special. */
static int read_named(struct lmi_vocab *b, struct folder *f, const char *path, const char *base, struct lm_err *e)
{
    struct lm_span text, merges;
    int rc = read_path(path, &f->arena, &text, e);

    if (rc <= 0)
        return rc < 0 ? -1 : lm_err_set(e, LM_MISSING, "no such file");
    if (is_rank_file(base) || (ends_with(base, ".model") && lmi_is_tiktoken(text)))
        return lmi_tiktoken_read(b, text, base, f->options, (struct lmi_files){get_from_folder, f}, e) < 0 ? -1 : 1;
    if (ends_with(base, ".model"))
        return read_spm(b, text, e);
    if (strcmp(base, "tekken.json") == 0)
        return lmi_tekken_read(b, text, e) < 0 ? -1 : 1;
    if (strcmp(base, "vocab.txt") == 0)
        return lmi_bert_vocab_read(b, text, (struct lmi_files){get_from_folder, f}, e) < 0 ? -1 : 1;
    if (is_rwkv_name(base))
        return lmi_rwkv_read(b, text, e) < 0 ? -1 : 1;
    if (strcmp(base, "vocab.json") != 0)
        return lmi_tokenizer_json_read(b, text, e) < 0 ? -1 : 1;
    rc = get_from_folder(f, "merges.txt", &merges, e);
    if (rc <= 0)
        return rc < 0 ? -1 : lm_err_set(e, LM_MISSING, "there is no merges.txt beside it, which vocab.json needs");
    return lmi_vocab_merges_read(b, text, merges, e) < 0 ? -1 : 1;
}

static int open_named(struct lm_vocab **out, const char *path, const struct lm_vocab_options *options, struct lm_err *e)
{
    struct folder f = {.options = options};
    char dir[4096];
    const char *base;
    struct lmi_vocab *b = lmi_vocab_new();

    if (!b)
        return lmi_nomem_vocab(e);
    f.dir = dir;
    int rc = split_path(path, dir, sizeof dir, &base, e) < 0 ? -1 : read_named(b, &f, path, base, e);
    if (rc > 0)
        rc = lmi_vocab_configure(b, (struct lmi_files){get_from_folder, &f}, e) < 0 ? -1 : 1;
    lm_arena_free(&f.arena);
    return deliver(out, b, rc, e) < 0 ? lm_err_prefix(e, "%s", path) : 0;
}

/* A folder needs no weights to hold a tokenizer. 1 read, 0 none. */
static int open_folder(struct lm_vocab **out, const char *path, struct lm_err *e)
{
    struct folder f = {.dir = path};
    struct lmi_files files = {get_from_folder, &f};
    struct lmi_vocab *b = lmi_vocab_new();

    if (!b)
        return lmi_nomem_vocab(e);
    int rc = read_files(b, files, e);
    if (rc > 0)
        rc = lmi_vocab_configure(b, files, e) < 0 ? -1 : 1;
    lm_arena_free(&f.arena);
    rc = deliver(out, b, rc, e);
    return rc < 0 ? lm_err_prefix(e, "%s", path) : rc;
}

static int open_model(struct lm_vocab **out, const char *path, struct lm_err *e)
{
    struct lm_model *m;

    if (lm_model_open(&m, path, e) < 0)
        return -1;
    int rc = lm_vocab_of_model(out, m, e);
    lm_model_close(m);
    return rc > 0 ? 0 : rc < 0 ? -1 : lm_err_set(e, LM_MISSING, "%s: the model has no tokenizer", path);
}

int lm_vocab_open(struct lm_vocab **out, const char *path, struct lm_err *e)
{
    return lm_vocab_open_with(out, path, NULL, e);
}

int lm_vocab_open_with(struct lm_vocab **out, const char *path, const struct lm_vocab_options *options, struct lm_err *e)
{
    struct stat st;
    const char *base = strrchr(path, '/');

    *out = NULL;
    base = base ? base + 1 : path;
    if (stat(path, &st) < 0)
        return lm_err_errno(e, "%s", path);
    if (S_ISDIR(st.st_mode)) {
        int rc = open_folder(out, path, e);
        if (rc != 0)
            return rc < 0 ? -1 : 0;
    }
    if (ends_with(base, ".model") || is_rank_file(base) || strcmp(base, "vocab.txt") == 0 || is_rwkv_name(base) ||
        (ends_with(base, ".json") && !ends_with(base, ".index.json")))
        return open_named(out, path, options, e);
    return open_model(out, path, e);
}

/* ---- text for people */

struct escaper {
    char *buf;
    size_t size, n;
};

static void put(struct escaper *x, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++, x->n++)
        if (x->n + 1 < x->size)
            x->buf[x->n] = s[i];
}

/* Characters that show as something: no controls, no separators but the space,
 * no marks that change the direction of what follows. */
static bool printable(uint32_t cp)
{
    bool control = cp < 0x20 || (cp >= 0x7f && cp <= 0xa0) || cp == 0xad;
    bool format = (cp >= 0x200b && cp <= 0x200f) || (cp >= 0x2028 && cp <= 0x202e) || (cp >= 0x2060 && cp <= 0x206f) ||
                  cp == 0xfeff || (cp >= 0xfff0 && cp <= 0xfffb) || (cp >= 0xe0000 && cp <= 0xe0fff);

    return !control && !format;
}

size_t lm_piece_escape(struct lm_span text, char *buf, size_t size)
{
    struct escaper x = {buf, size, 0};

    for (size_t i = 0; i < text.size;) {
        size_t w = lmi_utf8_step(text.data + i, text.size - i);
        char hex[8];
        if (w == 1 && text.data[i] == '\\')
            put(&x, "\\\\", 2);
        else if (w > 0 && printable(lmi_utf8_get(text.data + i)))
            put(&x, (const char *)text.data + i, w);
        else {
            w = 1; /* the rest of a sequence follows byte by byte: none of it is valid alone */
            put(&x, hex, (size_t)snprintf(hex, sizeof hex, "\\x%02X", text.data[i]));
        }
        i += w;
    }
    if (size > 0)
        buf[x.n < size ? x.n : size - 1] = '\0';
    return x.n;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

int64_t lm_piece_unescape(const char *text, uint8_t *buf, size_t size)
{
    size_t n = 0;

    while (*text) {
        int byte = (uint8_t)*text++;
        if (byte == '\\' && *text == '\\')
            text++;
        else if (byte == '\\') {
            if (*text != 'x' || hex_digit(text[1]) < 0 || hex_digit(text[2]) < 0)
                return -1;
            byte = hex_digit(text[1]) * 16 + hex_digit(text[2]);
            text += 3;
        }
        if (n < size)
            buf[n] = (uint8_t)byte;
        n++;
    }
    return (int64_t)n;
}
