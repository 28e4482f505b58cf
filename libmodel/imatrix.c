#include "libmodel/imatrix.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libmodel/format.h"

enum { DEFAULT_CHUNK = 512, MAX_CHUNK = 1 << 24 };
#define MAX_TOKENS 0x1p40 /* of one count: products with a chunk's size fit int64_t */

/* Sums are borrowed from the source, or lie in the arena once they were changed. */
struct lm_imatrix {
    struct lm_imatrix_entry *entries; /* sorted by name */
    size_t n, capacity;
    const char **datasets;
    size_t n_datasets;
    uint32_t chunks, chunk_size;
    struct lm_model *model; /* the source if a GGUF */
    struct lm_span map;     /* the source if a .dat */
    struct lm_arena arena;
};

static int no_memory(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory");
}

int lm_imatrix_new(struct lm_imatrix **out, uint32_t chunk_size, struct lm_err *e)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return no_memory(e);
    (*out)->chunk_size = chunk_size;
    return 0;
}

void lm_imatrix_free(struct lm_imatrix *m)
{
    if (!m)
        return;
    if (m->map.data)
        munmap((void *)(uintptr_t)m->map.data, m->map.size);
    lm_model_close(m->model);
    lm_arena_free(&m->arena);
    free(m->entries);
    free(m->datasets);
    free(m);
}

/* ---- entries */

/* The first whose name is not before `name`. */
static size_t place_of(const struct lm_imatrix *m, const char *name)
{
    size_t a = 0, b = m->n;

    while (a < b) {
        size_t mid = a + (b - a) / 2;
        if (strcmp(m->entries[mid].name, name) < 0)
            a = mid + 1;
        else
            b = mid;
    }
    return a;
}

const struct lm_imatrix_entry *lm_imatrix_find(const struct lm_imatrix *m, const char *name)
{
    size_t i = place_of(m, name);

    return i < m->n && strcmp(m->entries[i].name, name) == 0 ? &m->entries[i] : NULL;
}

size_t lm_imatrix_count(const struct lm_imatrix *m)
{
    return m->n;
}

const struct lm_imatrix_entry *lm_imatrix_at(const struct lm_imatrix *m, size_t i)
{
    return i < m->n ? &m->entries[i] : NULL;
}

static int reserve(struct lm_imatrix *m, struct lm_err *e)
{
    if (m->n < m->capacity)
        return 0;
    size_t capacity = m->capacity ? 2 * m->capacity : 64;
    struct lm_imatrix_entry *bigger = reallocarray(m->entries, capacity, sizeof *bigger);
    if (!bigger)
        return no_memory(e);
    m->entries = bigger;
    m->capacity = capacity;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct lm_imatrix_entry *)a)->name, ((const struct lm_imatrix_entry *)b)->name);
}

static int check_entry(const struct lm_imatrix_entry *x, struct lm_err *e)
{
    if (x->n_values == 0 || x->n_counts == 0 || x->n_values % x->n_counts != 0)
        return lm_err_set(e, LM_MALFORMED, "importance of '%s': %zu sums do not go with %zu counts", x->name,
                          x->n_values, x->n_counts);
    for (size_t i = 0; i < x->n_values; i++) {
        float v = lm_load_f32le(x->sums + 4 * i);
        if (!(v >= 0) || isinf(v))
            return lm_err_set(e, LM_MALFORMED, "importance of '%s': value %zu is %g, not a sum of squares", x->name, i,
                              (double)v);
    }
    return 0;
}

/* After reading: order, and no name twice. */
static int settle(struct lm_imatrix *m, struct lm_err *e)
{
    if (m->n == 0)
        return lm_err_set(e, LM_MALFORMED, "there is no importance in it");
    qsort(m->entries, m->n, sizeof *m->entries, by_name);
    for (size_t i = 0; i < m->n; i++) {
        if (check_entry(&m->entries[i], e))
            return -1;
        if (i > 0 && strcmp(m->entries[i - 1].name, m->entries[i].name) == 0)
            return lm_err_set(e, LM_MALFORMED, "importance of '%s' is there twice", m->entries[i].name);
    }
    return 0;
}

int lm_imatrix_add_dataset(struct lm_imatrix *m, const char *name, struct lm_err *e)
{
    const char **bigger = reallocarray(m->datasets, m->n_datasets + 1, sizeof *bigger);

    if (!bigger)
        return no_memory(e);
    m->datasets = bigger;
    m->datasets[m->n_datasets] = lm_arena_str(&m->arena, lm_span_str(name));
    return m->datasets[m->n_datasets++] ? 0 : no_memory(e);
}

size_t lm_imatrix_n_datasets(const struct lm_imatrix *m)
{
    return m->n_datasets;
}

const char *lm_imatrix_dataset(const struct lm_imatrix *m, size_t i)
{
    return i < m->n_datasets ? m->datasets[i] : NULL;
}

uint32_t lm_imatrix_chunks(const struct lm_imatrix *m)
{
    return m->chunks;
}

uint32_t lm_imatrix_chunk_size(const struct lm_imatrix *m)
{
    return m->chunk_size;
}

void lm_imatrix_set_chunks(struct lm_imatrix *m, uint32_t n)
{
    m->chunks = n;
}

int lm_imatrix_means(const struct lm_imatrix_entry *x, uint64_t n_columns, uint64_t n_matrices, uint64_t matrix,
                     float *out, struct lm_err *e)
{
    uint64_t n = 0, group = x->n_values / x->n_counts;

    if (!lm_mul_u64(n_columns, n_matrices, &n) || n != x->n_values || group % n_columns != 0)
        return lm_err_set(e, LM_MISMATCH, "importance of '%s' has %zu values, the tensor %llu columns%s: it belongs to "
                          "another model", x->name, x->n_values, (unsigned long long)n, n_matrices > 1 ? " of experts" : "");
    float count = (float)x->counts[matrix * n_columns / group];
    for (uint64_t i = 0; i < n_columns; i++)
        out[i] = count > 0 ? lm_load_f32le(x->sums + 4 * (matrix * n_columns + i)) / count : 1;
    return 0;
}

/* ---- adding up */

/* Counts [n_counts] of x as [n]; NULL when out of memory. */
static int64_t *spread_counts(struct lm_arena *a, const int64_t *counts, size_t n_counts, size_t n)
{
    int64_t *c = lm_arena_array(a, n, sizeof *c);

    for (size_t i = 0; c && i < n; i++)
        c[i] = counts[n_counts == 1 ? 0 : i];
    return c;
}

static int append(struct lm_imatrix *m, size_t at, struct lm_imatrix_entry x, struct lm_err *e)
{
    if (reserve(m, e))
        return -1;
    memmove(m->entries + at + 1, m->entries + at, (m->n - at) * sizeof *m->entries);
    m->entries[at] = x;
    m->n++;
    return 0;
}

/* Values of `x` times `scale`, added to those of m's entry of that name. */
static int add_entry(struct lm_imatrix *m, const struct lm_imatrix_entry *x, uint32_t scale, struct lm_err *e)
{
    size_t at = place_of(m, x->name);
    struct lm_imatrix_entry *old = at < m->n && strcmp(m->entries[at].name, x->name) == 0 ? &m->entries[at] : NULL;
    size_t n_counts = old && old->n_counts > x->n_counts ? old->n_counts : x->n_counts;

    if (check_entry(x, e))
        return -1;
    if (old && (old->n_values != x->n_values || (old->n_counts > 1 && x->n_counts > 1 && old->n_counts != x->n_counts)))
        return lm_err_set(e, LM_MISMATCH, "importance of '%s' has %zu values for %zu matrices here and %zu for %zu there: "
                          "they belong to different models", x->name, old->n_values, old->n_counts, x->n_values,
                          x->n_counts);
    uint8_t *sums = lm_arena_array(&m->arena, x->n_values, 4);
    int64_t *counts = spread_counts(&m->arena, x->counts, x->n_counts, n_counts);
    const char *name = old ? old->name : lm_arena_str(&m->arena, lm_span_str(x->name));
    if (!sums || !counts || !name)
        return no_memory(e);
    for (size_t i = 0; i < x->n_values; i++) {
        float v = lm_load_f32le(x->sums + 4 * i) * (float)scale + (old ? lm_load_f32le(old->sums + 4 * i) : 0);
        uint32_t u;
        if (isinf(v))
            return lm_err_set(e, LM_LIMIT, "importance of '%s': the sum is too large", x->name);
        memcpy(&u, &v, 4);
        lm_store_u32le(sums + 4 * i, u);
    }
    for (size_t i = 0; i < n_counts; i++) {
        counts[i] = counts[i] * scale + (old ? old->counts[old->n_counts == 1 ? 0 : i] : 0);
        if (counts[i] > INT64_C(1) << 60)
            return lm_err_set(e, LM_LIMIT, "importance of '%s': too many tokens", x->name);
    }
    struct lm_imatrix_entry sum = {name, x->n_values, n_counts, sums, counts};
    if (!old)
        return append(m, at, sum, e);
    *old = sum;
    return 0;
}

int lm_imatrix_add(struct lm_imatrix *m, const char *name, const float *sums, size_t n_values, const int64_t *counts,
                   size_t n_counts, struct lm_err *e)
{
    uint8_t *le = malloc(n_values ? 4 * n_values : 1);
    struct lm_imatrix_entry x = {name, n_values, n_counts, le, counts};

    if (!le)
        return no_memory(e);
    for (size_t i = 0; i < n_values; i++) {
        uint32_t u;
        memcpy(&u, &sums[i], 4);
        lm_store_u32le(le + 4 * i, u);
    }
    int rc = add_entry(m, &x, 1, e);
    free(le);
    return rc;
}

static void count_chunks(struct lm_imatrix *m)
{
    int64_t most = 0;

    for (size_t i = 0; i < m->n; i++)
        for (size_t j = 0; j < m->entries[i].n_counts; j++)
            most = m->entries[i].counts[j] > most ? m->entries[i].counts[j] : most;
    most /= m->chunk_size ? m->chunk_size : 1;
    m->chunks = most > UINT32_MAX ? UINT32_MAX : (uint32_t)most;
}

/* What a .dat gave, in chunks, becomes tokens. */
static int rescale(struct lm_imatrix *m, uint32_t chunk_size, struct lm_err *e)
{
    size_t n = m->n;
    struct lm_imatrix_entry *old = m->entries;

    m->entries = NULL;
    m->n = m->capacity = 0;
    m->chunk_size = chunk_size;
    for (size_t i = 0; i < n; i++)
        if (add_entry(m, &old[i], chunk_size, e)) {
            free(old);
            return -1;
        }
    free(old);
    return 0;
}

int lm_imatrix_merge(struct lm_imatrix *m, const struct lm_imatrix *from, struct lm_err *e)
{
    if (m->chunk_size == 0 && from->chunk_size != 0 && rescale(m, from->chunk_size, e))
        return -1;
    uint32_t scale = from->chunk_size == 0 && m->chunk_size != 0 ? m->chunk_size : 1;
    for (size_t i = 0; i < from->n; i++)
        if (add_entry(m, &from->entries[i], scale, e))
            return -1;
    for (size_t i = 0; i < from->n_datasets; i++)
        if (lm_imatrix_add_dataset(m, from->datasets[i], e))
            return -1;
    count_chunks(m);
    return 0;
}

/* ---- GGUF */

static bool cut_suffix(struct lm_span *name, const char *suffix)
{
    size_t k = strlen(suffix);

    if (name->size <= k || memcmp(name->data + name->size - k, suffix, k) != 0)
        return false;
    name->size -= k;
    return true;
}

static int read_counts(struct lm_imatrix *m, const struct lm_tensor *t, int64_t **out, struct lm_err *e)
{
    *out = lm_arena_array(&m->arena, t->n_elems, sizeof **out);
    if (!*out)
        return no_memory(e);
    for (uint64_t i = 0; i < t->n_elems; i++) {
        float v;
        if (lm_tensor_to_f32(t, i, 1, &v, e))
            return -1;
        if (!(v >= 0) || v > (float)MAX_TOKENS)
            return lm_err_set(e, LM_MALFORMED, "tensor '%s': %g is no number of tokens", t->name, (double)v);
        (*out)[i] = (int64_t)llroundf(v);
    }
    return 0;
}

/* The bytes in the mapping, or a copy where the file has the other byte order. */
static const uint8_t *values_of(struct lm_imatrix *m, const struct lm_tensor *t)
{
    if (!t->big_endian)
        return t->data;
    uint8_t *own = lm_arena_alloc(&m->arena, t->n_bytes);
    if (own)
        lm_tensor_read(t, 0, t->n_bytes, own);
    return own;
}

static int read_pair(struct lm_imatrix *m, const struct lm_tensor *sums, struct lm_span name, struct lm_err *e)
{
    char *own = lm_arena_str(&m->arena, name), counts_name[600];
    int64_t *counts;

    if (!own || reserve(m, e))
        return no_memory(e);
    snprintf(counts_name, sizeof counts_name, "%.500s.counts", own);
    const struct lm_tensor *c = lm_model_find(m->model, counts_name);
    if (!c)
        return lm_err_set(e, LM_MALFORMED, "tensor '%s' has no '%s' beside it", sums->name, counts_name);
    if (sums->dtype != LM_F32 || c->dtype != LM_F32)
        return lm_err_set(e, LM_MALFORMED, "tensor '%s': importance is F32, not %s", sums->name,
                          lm_dtype_name(sums->dtype != LM_F32 ? sums->dtype : c->dtype));
    if (read_counts(m, c, &counts, e))
        return -1;
    const uint8_t *values = values_of(m, sums);
    if (!values)
        return no_memory(e);
    m->entries[m->n++] = (struct lm_imatrix_entry){own, sums->n_elems, c->n_elems, values, counts};
    return 0;
}

static int read_keys(struct lm_imatrix *m, struct lm_err *e)
{
    const struct lm_meta *meta = lm_model_meta(m->model);
    const struct lm_meta_value *v = lm_meta_get(meta, "imatrix.datasets");
    uint64_t n = 0, size = 0;

    if (lm_meta_get_u64(meta, "imatrix.chunk_count", &n, e) < 0 || lm_meta_get_u64(meta, "imatrix.chunk_size", &size, e) < 0)
        return -1;
    m->chunks = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    if (size > MAX_CHUNK)
        return lm_err_set(e, LM_MALFORMED, "imatrix.chunk_size is %llu, more tokens than any chunk has",
                          (unsigned long long)size);
    m->chunk_size = (uint32_t)size;
    for (size_t i = 0; v && v->type == LM_META_ARRAY && v->elem == LM_META_STR && i < v->n; i++) {
        char *name = lm_arena_str(&m->arena, v->strs[i]);
        if (!name || lm_imatrix_add_dataset(m, name, e))
            return no_memory(e);
    }
    return 0;
}

static int read_gguf(struct lm_imatrix *m, const char *path, struct lm_err *e)
{
    if (lm_model_open(&m->model, path, e) || read_keys(m, e))
        return -1;
    for (size_t i = 0; i < lm_model_n_tensors(m->model); i++) {
        const struct lm_tensor *t = lm_model_tensor(m->model, i);
        struct lm_span name = lm_span_str(t->name);
        if (cut_suffix(&name, ".in_sum2") && read_pair(m, t, name, e))
            return -1;
    }
    if (m->n == 0)
        return lm_err_set(e, LM_MALFORMED, "a GGUF, but not of importance: it has no tensor called *.in_sum2");
    if (m->chunk_size == 0) /* its counts are tokens, whatever a chunk was */
        m->chunk_size = DEFAULT_CHUNK;
    return settle(m, e);
}

/* ---- .dat */

static int bad_dat(size_t i, struct lm_err *e)
{
    return lm_err_set(e, LM_MALFORMED, "neither a GGUF nor an importance file of the older kind (.dat): entry %zu does "
                      "not fit into it", i);
}

static int read_dat_entry(struct lm_imatrix *m, struct lm_cursor *c, struct lm_err *e)
{
    size_t i = m->n;
    uint32_t length = lm_cur_u32(c);
    struct lm_span name = lm_cur_bytes(c, length);
    int32_t chunks = (int32_t)lm_cur_u32(c);
    uint32_t n = lm_cur_u32(c);
    struct lm_span values = lm_cur_bytes(c, (uint64_t)n * 4);

    if (c->failed || name.size == 0 || memchr(name.data, 0, name.size) || n == 0)
        return bad_dat(i, e);
    char *own = lm_arena_str(&m->arena, name);
    int64_t *count = lm_arena_array(&m->arena, 1, sizeof *count);
    if (!own || !count || reserve(m, e))
        return no_memory(e);
    *count = chunks > 0 ? chunks : 1; /* readers take the values as they are then */
    m->entries[m->n++] = (struct lm_imatrix_entry){own, n, 1, values.data, count};
    return 0;
}

/* Both are optional. */
static int read_dat_tail(struct lm_imatrix *m, struct lm_cursor *c, struct lm_err *e)
{
    uint32_t chunks = lm_cur_u32(c);

    if (c->failed)
        return 0;
    m->chunks = chunks > INT32_MAX ? 0 : chunks;
    uint32_t length = lm_cur_u32(c);
    struct lm_span name = lm_cur_bytes(c, length);
    if (c->failed || name.size == 0)
        return 0;
    char *own = lm_arena_str(&m->arena, name);
    return own ? lm_imatrix_add_dataset(m, own, e) : no_memory(e);
}

static int read_dat(struct lm_imatrix *m, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(m->map);
    uint32_t n = lm_cur_u32(&c);

    if (c.failed || n == 0)
        return bad_dat(0, e);
    for (uint32_t i = 0; i < n; i++)
        if (read_dat_entry(m, &c, e))
            return -1;
    return read_dat_tail(m, &c, e) || settle(m, e) ? -1 : 0;
}

static int map_file(struct lm_imatrix *m, const char *path, struct lm_err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat s;
    void *p = MAP_FAILED;

    if (fd < 0 || fstat(fd, &s) != 0) {
        lm_err_errno(e, "cannot open");
        if (fd >= 0)
            close(fd);
        return -1;
    }
    if (S_ISREG(s.st_mode) && s.st_size > 0)
        p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        return lm_err_set(e, LM_MALFORMED, "empty, or not an ordinary file");
    m->map = lm_span_of(p, (size_t)s.st_size);
    return 0;
}

/* GGUF is asked first: as a .dat its magic would be 1 179 993 927 entries. */
static int read_any(struct lm_imatrix *m, const char *path, struct lm_err *e)
{
    if (map_file(m, path, e))
        return -1;
    return m->map.size >= 4 && memcmp(m->map.data, "GGUF", 4) == 0 ? read_gguf(m, path, e) : read_dat(m, e);
}

int lm_imatrix_read(struct lm_imatrix **out, const char *path, struct lm_err *e)
{
    struct lm_imatrix *m;

    *out = NULL;
    if (lm_imatrix_new(&m, 0, e))
        return -1;
    if (read_any(m, path, e)) {
        lm_imatrix_free(m);
        return strstr(e->text, path) ? -1 : lm_err_prefix(e, "%s", path);
    }
    *out = m;
    return 0;
}

/* ---- writing */

struct sink { uint8_t *data; size_t n, capacity; bool failed; };

static void put(struct sink *s, const void *data, size_t n)
{
    if (s->n + n > s->capacity) {
        size_t capacity = s->capacity * 2 > s->n + n ? s->capacity * 2 : s->n + n + 4096;
        uint8_t *bigger = s->failed ? NULL : realloc(s->data, capacity);
        if (!bigger) {
            s->failed = true;
            return;
        }
        s->data = bigger;
        s->capacity = capacity;
    }
    memcpy(s->data + s->n, data, n);
    s->n += n;
}

static void put_u32(struct sink *s, uint32_t v)
{
    uint8_t b[4];

    lm_store_u32le(b, v);
    put(s, b, sizeof b);
}

static void put_f32(struct sink *s, float v)
{
    uint32_t u;

    memcpy(&u, &v, 4);
    put_u32(s, u);
}

static int64_t most_tokens(const struct lm_imatrix_entry *x)
{
    int64_t most = 0;

    for (size_t i = 0; i < x->n_counts; i++)
        most = x->counts[i] > most ? x->counts[i] : most;
    return most;
}

static void put_dat_entry(struct sink *s, const struct lm_imatrix_entry *x, int64_t chunk_size)
{
    int64_t chunks = (most_tokens(x) + chunk_size - 1) / chunk_size;
    size_t group = x->n_values / x->n_counts, length = strlen(x->name);

    put_u32(s, (uint32_t)length);
    put(s, x->name, length);
    put_u32(s, (uint32_t)(chunks < INT32_MAX ? chunks : INT32_MAX));
    put_u32(s, (uint32_t)x->n_values);
    for (size_t i = 0; i < x->n_values; i++) {
        int64_t count = x->counts[i / group];
        float v = count > 0 ? lm_load_f32le(x->sums + 4 * i) : 1, by = count > 0 ? (float)count : 1;
        put_f32(s, by == (float)chunks ? v : v / by * (float)chunks);
    }
}

static int encode_dat(const struct lm_imatrix *m, struct sink *s)
{
    const char *dataset = m->n_datasets ? m->datasets[m->n_datasets - 1] : "";
    uint32_t n = 0;

    for (size_t i = 0; i < m->n; i++)
        n += most_tokens(&m->entries[i]) > 0;
    put_u32(s, n);
    for (size_t i = 0; i < m->n; i++)
        if (most_tokens(&m->entries[i]) > 0)
            put_dat_entry(s, &m->entries[i], m->chunk_size ? m->chunk_size : 1);
    put_u32(s, m->chunks);
    put_u32(s, (uint32_t)strlen(dataset));
    put(s, dataset, strlen(dataset));
    return s->failed ? -1 : 0;
}

static int gguf_keys(struct lm_meta *meta, const struct lm_imatrix *m, struct lm_arena *a)
{
    struct lm_span *names = lm_arena_array(a, m->n_datasets + 1, sizeof *names);

    for (size_t i = 0; names && i < m->n_datasets; i++)
        names[i] = lm_span_str(m->datasets[i]);
    if (!names || lm_meta_set_str(meta, "general.type", lm_span_str("imatrix")) ||
        lm_meta_set_strs(meta, "imatrix.datasets", names, m->n_datasets) ||
        lm_meta_set_u32(meta, "imatrix.chunk_count", m->chunks))
        return -1;
    return lm_meta_set_u32(meta, "imatrix.chunk_size", m->chunk_size ? m->chunk_size : DEFAULT_CHUNK);
}

/* As llama.cpp writes them: outer dimensions of 1 are not there. */
static int gguf_tensors(struct lm_write_tensor *t, const struct lm_imatrix *m, struct lm_arena *a)
{
    for (size_t i = 0; i < m->n; i++, t += 2) {
        const struct lm_imatrix_entry *x = &m->entries[i];
        size_t n = strlen(x->name) + 16, columns = x->n_values / x->n_counts;
        char *sums = lm_arena_alloc(a, n), *counts = lm_arena_alloc(a, n);
        unsigned n_dims = x->n_counts > 1 ? 2 : 1;
        if (!sums || !counts)
            return -1;
        snprintf(sums, n, "%s.in_sum2", x->name);
        snprintf(counts, n, "%s.counts", x->name);
        t[0] = (struct lm_write_tensor){sums, LM_F32, n_dims, {n_dims == 2 ? x->n_counts : columns, columns}};
        t[1] = (struct lm_write_tensor){counts, LM_F32, n_dims, {x->n_counts, 1}};
    }
    return 0;
}

static void fill_gguf(uint8_t *file, const struct lm_layout *l, const struct lm_imatrix *m)
{
    float scale = m->chunk_size ? 1 : DEFAULT_CHUNK;

    memcpy(file, l->files[0].head, l->files[0].n_head);
    for (size_t i = 0; i < m->n; i++) {
        const struct lm_imatrix_entry *x = &m->entries[i];
        struct sink sums = {file + l->places[2 * i].offset, 0, 4 * x->n_values, false};
        struct sink counts = {file + l->places[2 * i + 1].offset, 0, 4 * x->n_counts, false};
        for (size_t k = 0; k < x->n_values; k++)
            put_f32(&sums, lm_load_f32le(x->sums + 4 * k) * scale);
        for (size_t k = 0; k < x->n_counts; k++)
            put_f32(&counts, (float)x->counts[k] * scale);
    }
}

static int encode_gguf(const struct lm_imatrix *m, uint8_t **out, size_t *n, struct lm_err *e)
{
    struct lm_arena a = {0};
    struct lm_layout l = {0};
    struct lm_meta *meta = lm_meta_new();
    struct lm_write_tensor *t = lm_arena_array(&a, 2 * m->n + 1, sizeof *t);
    struct lm_write_spec spec = {.tensors = t, .n_tensors = 2 * m->n, .meta = meta};
    int rc = -1;

    if (!meta || !t || gguf_keys(meta, m, &a) || gguf_tensors(t, m, &a))
        no_memory(e);
    else if (lm_format_find("gguf")->layout(&l, &spec, "imatrix.gguf", e) == 0) {
        *n = (size_t)l.files[0].n_bytes;
        *out = calloc(1, *n);
        rc = *out ? 0 : no_memory(e);
    }
    if (rc == 0)
        fill_gguf(*out, &l, m);
    lm_layout_free(&l);
    lm_meta_free(meta);
    lm_arena_free(&a);
    return rc;
}

int lm_imatrix_encode(const struct lm_imatrix *m, bool legacy, uint8_t **out, size_t *n, struct lm_err *e)
{
    struct sink s = {0};

    *out = NULL;
    if (!legacy)
        return encode_gguf(m, out, n, e);
    if (encode_dat(m, &s)) {
        free(s.data);
        return no_memory(e);
    }
    *out = s.data;
    *n = s.n;
    return 0;
}
