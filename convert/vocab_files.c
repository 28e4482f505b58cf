#include "convert/vocab_files.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "convert/convert.h"

/* Text that grows in memory; data is there after done(). */
struct sink {
    FILE *f;
    char *data;
    size_t n;
};

static int nomem(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory while writing a vocabulary");
}

static int start(struct sink *s, struct lm_err *e)
{
    *s = (struct sink){0};
    s->f = open_memstream(&s->data, &s->n);
    return s->f ? 0 : nomem(e);
}

/* rc as given, or -1 when memory ran out on the way. */
static int done(struct sink *s, int rc, struct lm_err *e)
{
    bool bad = ferror(s->f) != 0;

    bad |= fclose(s->f) != 0;
    return rc == 0 && bad ? nomem(e) : rc;
}

static int cannot(size_t id, struct lm_span text, const char *why, struct lm_err *e)
{
    char buf[200];

    lm_piece_escape(text, buf, sizeof buf);
    return lm_err_set(e, LM_UNSUPPORTED, "piece %zu '%s' %s", id, buf, why);
}

/* ---- vocab.json, merges.txt, added_tokens.json */

static int put_entry(FILE *f, const struct lm_vocab *v, size_t id, bool first, struct lm_err *e)
{
    struct lm_span text = v->pieces[id].text;

    if (!lm_utf8_valid(text))
        return cannot(id, text, "is not UTF-8, which JSON cannot hold", e);
    if (lm_vocab_find(v, text) != (int64_t)id)
        return cannot(id, text, "is there twice, which a JSON object cannot hold", e);
    json_t *s = json_stringn((const char *)text.data, text.size);
    char *quoted = s ? json_dumps(s, JSON_ENCODE_ANY) : NULL;
    json_decref(s);
    if (!quoted)
        return nomem(e);
    fprintf(f, "%s\n  %s: %zu", first ? "" : ",", quoted, id);
    free(quoted);
    return 0;
}

/* Pieces of the model, or those that are only added tokens. */
static int put_object(FILE *f, const struct lm_vocab *v, bool in_model, struct lm_err *e)
{
    size_t n = 0;

    fputc('{', f);
    for (size_t i = 0; i < v->n_pieces; i++)
        if (v->pieces[i].in_model == in_model && (in_model || v->pieces[i].added) && put_entry(f, v, i, n++ == 0, e) < 0)
            return -1;
    fputs("\n}\n", f);
    return 0;
}

static bool splits(struct lm_span s)
{
    return memchr(s.data, ' ', s.size) || memchr(s.data, '\n', s.size);
}

static int put_merges(FILE *f, const struct lm_vocab *v, struct lm_err *e)
{
    fputs("#version: 0.2\n", f);
    for (size_t i = 0; i < v->n_merges; i++) {
        uint32_t halves[] = {v->merges[i].left, v->merges[i].right};
        for (size_t k = 0; k < 2; k++) {
            struct lm_span s = v->pieces[halves[k]].text;
            if (splits(s))
                return cannot(halves[k], s, "holds a space, which merges.txt cannot", e);
            fwrite(s.data, 1, s.size, f);
            fputc(k ? '\n' : ' ', f);
        }
    }
    return 0;
}

/* ---- tokenizer_config.json: as lm-convert writes it, and what the added tokens are */

static json_t *token_json(const struct lm_piece *p)
{
    return json_pack("{so, sb, sb, sb, sb, sb}", "content", json_stringn((const char *)p->text.data, p->text.size), "lstrip",
                     (int)p->lstrip, "normalized", (int)p->normalized, "rstrip", (int)p->rstrip, "single_word",
                     (int)p->single_word, "special", (int)p->special);
}

static json_t *tokens_json(const struct lm_vocab *v)
{
    json_t *o = json_object();
    char id[24];

    for (size_t i = 0; i < v->n_pieces; i++)
        if (v->pieces[i].added) {
            snprintf(id, sizeof id, "%zu", i);
            json_object_set_new(o, id, token_json(&v->pieces[i]));
        }
    return o;
}

struct config {
    const struct lm_vocab *v;
    FILE *f;
};

static int put_config(void *user, const char *name, struct lm_span data, struct lm_err *e)
{
    struct config *c = user;
    json_t *root = strcmp(name, "tokenizer_config.json") == 0 ? json_loadb((const char *)data.data, data.size, 0, NULL) : NULL;

    if (!root)
        return 0;
    json_object_set_new(root, "added_tokens_decoder", tokens_json(c->v));
    if (strcmp(c->v->pre, "gpt-2") == 0) /* the class that reads these files; it splits as GPT-2 does */
        json_object_set_new(root, "tokenizer_class", json_string("GPT2Tokenizer"));
    int rc = json_dumpf(root, c->f, JSON_INDENT(1));
    fputc('\n', c->f);
    json_decref(root);
    return rc < 0 ? nomem(e) : 0;
}

/* ---- .tiktoken */

/* Several merges may give the same piece: of a rank file all its splits are merges. */
static int ids_follow_merges(const struct lm_vocab *v, struct lm_err *e)
{
    if (v->algo != LM_VOCAB_BYTE_BPE)
        return lm_err_set(e, LM_UNSUPPORTED, "a .tiktoken file holds byte-level BPE only");
    for (size_t i = 1; i < v->n_merges; i++)
        if (v->merges[i].result < v->merges[i - 1].result)
            return lm_err_set(e, LM_UNSUPPORTED, "in a .tiktoken file the id of a piece is its rank, but merge %zu gives id "
                                                 "%u after merge %zu gave %u", i, v->merges[i].result, i - 1,
                              v->merges[i - 1].result);
    return 0;
}

static void put_base64(FILE *f, struct lm_span s)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < s.size; i += 3) {
        size_t n = s.size - i < 3 ? s.size - i : 3;
        uint32_t x = (uint32_t)s.data[i] << 16 | (n > 1 ? (uint32_t)s.data[i + 1] << 8 : 0) | (n > 2 ? s.data[i + 2] : 0u);
        char out[4] = {digits[x >> 18], digits[x >> 12 & 63], n > 1 ? digits[x >> 6 & 63] : '=', n > 2 ? digits[x & 63] : '='};
        fwrite(out, 1, 4, f);
    }
}

static int put_ranks(FILE *f, const struct lm_vocab *v, const struct lm_tokenizer *t, struct lm_err *e)
{
    size_t size = lm_tokenizer_max_bytes(t) + 1;
    uint8_t *buf = malloc(size);

    if (!buf)
        return nomem(e);
    for (size_t i = 0; i < v->n_pieces; i++) {
        if (!v->pieces[i].in_model || v->pieces[i].special)
            continue;
        size_t n = lm_tokenizer_piece_bytes(t, (int32_t)i, false, true, buf, size);
        put_base64(f, lm_span_of(buf, n));
        fprintf(f, " %zu\n", i);
    }
    free(buf);
    return 0;
}

/* ---- .txt */

static int put_lines(FILE *f, const struct lm_vocab *v, struct lm_err *e)
{
    for (size_t i = 0; i < v->n_pieces; i++) {
        struct lm_span s = v->pieces[i].text;
        if (memchr(s.data, '\n', s.size) || memchr(s.data, '\r', s.size))
            return cannot(i, s, "holds the end of a line", e);
        fwrite(s.data, 1, s.size, f);
        fputc('\n', f);
    }
    return 0;
}

/* ---- files */

static int add_file(struct lm_commit *c, const char *name, const struct sink *s, struct lm_err *e)
{
    int fd;

    return lm_commit_add(c, name, s->n, &fd, e) || lm_pwrite_all(fd, s->data, s->n, 0, e) ? -1 : 0;
}

static int write_sinks(const char *dir, const char *const *file_names, const struct sink *s, size_t n, bool force,
                       struct lm_err *e)
{
    struct lm_commit *c = NULL;

    if (lm_commit_begin(&c, dir, force, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (add_file(c, file_names[i], &s[i], e) < 0) {
            lm_commit_abort(c);
            return -1;
        }
    return lm_commit_finish(c, e);
}

static bool has_added(const struct lm_vocab *v)
{
    for (size_t i = 0; i < v->n_pieces; i++)
        if (v->pieces[i].added && !v->pieces[i].in_model)
            return true;
    return false;
}

enum { VOCAB, ADDED, CONFIG, MERGES, N_FILES };

static int make_file(FILE *f, const struct lm_vocab *v, int which, struct lm_err *e)
{
    struct config c = {v, f};

    switch (which) {
    case VOCAB: return put_object(f, v, true, e);
    case ADDED: return put_object(f, v, false, e);
    case CONFIG: return lm_vocab_to_files(v, put_config, &c, e);
    default: return put_merges(f, v, e);
    }
}

static int write_folder(const struct lm_vocab *v, const char *path, bool force, const char **what, struct lm_err *e)
{
    static const char *const file_names[] = {"vocab.json", "added_tokens.json", "tokenizer_config.json", "merges.txt"};
    struct sink s[N_FILES] = {{0}};
    const char *used[N_FILES];
    bool added = has_added(v);
    size_t n = 0;
    int rc = 0;

    if (v->n_merges == 0)
        return lm_err_set(e, LM_UNSUPPORTED, "this vocabulary has no list of merges; vocab.json and merges.txt need one");
    for (int i = 0; i < N_FILES && rc == 0; i++) {
        if (i == ADDED && !added)
            continue;
        rc = start(&s[n], e);
        if (rc == 0)
            rc = done(&s[n], make_file(s[n].f, v, i, e), e);
        used[n++] = file_names[i];
    }
    if (rc == 0)
        rc = write_sinks(path, used, s, n, force, e);
    for (int i = 0; i < N_FILES; i++)
        free(s[i].data);
    *what = added ? "vocab.json, added_tokens.json, tokenizer_config.json, merges.txt"
                  : "vocab.json, tokenizer_config.json, merges.txt";
    return rc;
}

static int write_file(const struct lm_vocab *v, const struct lm_tokenizer *t, const char *path, bool ranks, bool force,
                      struct lm_err *e)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    char *dir = slash ? strndup(path, slash > path ? (size_t)(slash - path) : 1) : strdup(".");
    struct sink s = {0};
    int rc = dir ? 0 : nomem(e);

    if (rc == 0 && ranks)
        rc = ids_follow_merges(v, e);
    if (rc == 0)
        rc = start(&s, e);
    if (rc == 0)
        rc = done(&s, ranks ? put_ranks(s.f, v, t, e) : put_lines(s.f, v, e), e);
    if (rc == 0)
        rc = write_sinks(dir, &base, &s, 1, force, e);
    free(s.data);
    free(dir);
    return rc;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);

    return n > k && strcmp(s + n - k, end) == 0;
}

int lm_vocab_write(const struct lm_vocab *v, const struct lm_tokenizer *t, const char *path, bool force, const char **what,
                   struct lm_err *e)
{
    bool ranks = ends_with(path, ".tiktoken"), lines = ends_with(path, ".txt");

    *what = ranks ? "ranks" : "one piece a line";
    if (ranks || lines)
        return write_file(v, t, path, ranks, force, e);
    return write_folder(v, path, force, what, e);
}
