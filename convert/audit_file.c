/* What is wrong with files that the readers refuse: the headers once more, but
 * every defect is counted instead of the first one ending it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/audit_parts.h"

enum { MAX_HEADER = 100000000, MAX_FOUND = 1000 };

struct region { const char *name; uint64_t begin, end, needed; };

struct regions {
    struct region *of;
    size_t n;
    uint64_t n_data, alignment; /* 0: no rule about gaps */
};

/* ---- regions of a data section */

static int by_begin(const void *a, const void *b)
{
    const struct region *x = a, *y = b;

    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static void check_one(struct lm_audit *a, const struct regions *r, const struct region *x)
{
    if (x->end - x->begin != x->needed)
        lmc_found(a, LM_RULE_tensor_short, x->name, "its shape and type take %llu bytes, the file gives it %llu",
                  (unsigned long long)x->needed, (unsigned long long)(x->end - x->begin));
    if (x->end > r->n_data)
        lmc_found(a, LM_RULE_file_truncated, x->name, "it ends at byte %llu of the data, the file has %llu",
                  (unsigned long long)x->end, (unsigned long long)r->n_data);
    if (r->alignment && x->begin % r->alignment)
        lmc_found(a, LM_RULE_tensor_misaligned, x->name, "it begins at %llu, which is no multiple of %llu",
                  (unsigned long long)x->begin, (unsigned long long)r->alignment);
}

static void check_regions(struct lm_audit *a, const char *path, struct regions *r)
{
    const struct region *last = NULL;
    uint64_t pos = 0;

    if (r->n)
        qsort(r->of, r->n, sizeof *r->of, by_begin);
    for (size_t i = 0; i < r->n && a->n_findings < MAX_FOUND; i++) {
        const struct region *x = &r->of[i];
        check_one(a, r, x);
        if (x->begin < pos && x->end > x->begin)
            lmc_found(a, LM_RULE_tensor_overlap, x->name, "it begins at %llu, %llu bytes before the end of '%s'",
                      (unsigned long long)x->begin, (unsigned long long)(pos - x->begin), last->name);
        if (!r->alignment && x->begin > pos)
            lmc_found(a, LM_RULE_hidden_bytes, path, "%llu bytes before '%s' belong to no tensor",
                      (unsigned long long)(x->begin - pos), x->name);
        if (x->end > pos) {
            pos = x->end;
            last = x;
        }
    }
    if (!r->alignment && pos < r->n_data)
        lmc_found(a, LM_RULE_hidden_bytes, path, "%llu bytes after the last tensor",
                  (unsigned long long)(r->n_data - pos));
}

/* ---- safetensors */

static uint64_t size_of(const json_t *entry)
{
    const json_t *shape = json_object_get(entry, "shape"), *v;
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    int d = name ? lm_dtype_find(name) : -1;
    uint64_t n = 1;
    size_t i;

    json_array_foreach(shape, i, v)
        if (json_integer_value(v) < 0 || !lm_mul_u64(n, (uint64_t)json_integer_value(v), &n))
            return UINT64_MAX;
    return d < 0 ? UINT64_MAX : n == 0 ? 0 : lm_dtype_bytes((enum lm_dtype)d, n);
}

static void header_failed(struct lm_audit *a, const char *path, const json_error_t *error)
{
    if (strstr(error->text, "duplicate"))
        lmc_found(a, LM_RULE_tensor_twice, path, "in the header: %s", error->text);
    else
        lmc_found(a, LM_RULE_header_broken, path, "the header is no JSON: %s", error->text);
}

static void scan_safetensors(struct lm_audit *a, const char *path, struct lm_span f)
{
    uint64_t n = f.size >= 8 ? lm_load_u64le(f.data) : UINT64_MAX;
    json_error_t error;
    const char *name;
    json_t *entry;

    if (n > MAX_HEADER || n > f.size - 8) {
        lmc_found(a, LM_RULE_file_truncated, path, "the file of %zu bytes ends inside its header", f.size);
        return;
    }
    json_t *root = json_loadb((const char *)f.data + 8, (size_t)n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!json_is_object(root)) {
        header_failed(a, path, &error);
        json_decref(root);
        return;
    }
    struct regions r = {.of = calloc(json_object_size(root) + 1, sizeof *r.of), .n_data = f.size - 8 - n};
    json_object_foreach(root, name, entry) {
        const json_t *at = json_object_get(entry, "data_offsets");
        json_int_t begin = json_integer_value(json_array_get(at, 0)), end = json_integer_value(json_array_get(at, 1));
        if (r.of && json_array_size(at) == 2 && begin >= 0 && end >= begin)
            r.of[r.n++] = (struct region){name, (uint64_t)begin, (uint64_t)end, size_of(entry)};
    }
    check_regions(a, path, &r);
    free(r.of);
    json_decref(root);
}

/* ---- GGUF */

struct gguf_tensor { struct lm_span name; uint32_t type; uint64_t n_elems, offset; };

static bool skip_value(struct lm_cursor *c, uint32_t type)
{
    uint64_t n = 1;

    if (type == LM_META_ARRAY) {
        type = lm_cur_u32(c);
        n = lm_cur_u64(c);
    }
    if (type == LM_META_STR) {
        for (; n > 0 && !c->failed; n--)
            lm_cur_bytes(c, lm_cur_u64(c));
        return !c->failed;
    }
    uint64_t width = type < LM_META_N_TYPES ? lm_meta_width((enum lm_meta_type)type) : 0;
    if (!width || !lm_mul_u64(n, width, &n))
        return false;
    lm_cur_bytes(c, n);
    return !c->failed;
}

static bool skip_pairs(struct lm_cursor *c, uint64_t n, uint64_t *alignment)
{
    for (; n > 0 && !c->failed; n--) {
        struct lm_span key = lm_cur_bytes(c, lm_cur_u64(c));
        uint32_t type = lm_cur_u32(c);
        struct lm_cursor before = *c;
        if (c->failed || !skip_value(c, type))
            return false;
        if (lm_span_eq(key, lm_span_str("general.alignment")) && type == LM_META_U32)
            *alignment = lm_cur_u32(&before);
    }
    return !c->failed;
}

static bool read_tensor(struct lm_cursor *c, struct gguf_tensor *t)
{
    t->name = lm_cur_bytes(c, lm_cur_u64(c));
    uint32_t n_dims = lm_cur_u32(c);
    t->n_elems = 1;
    for (uint32_t i = 0; i < n_dims && n_dims <= 8; i++)
        if (!lm_mul_u64(t->n_elems, lm_cur_u64(c), &t->n_elems))
            return false;
    t->type = lm_cur_u32(c);
    t->offset = lm_cur_u64(c);
    return !c->failed && n_dims <= 8;
}

/* The tensors that a header lists; malloc'd, NULL when it cannot be followed. */
static struct gguf_tensor *walk_gguf(struct lm_span f, size_t *n, uint64_t *alignment, uint64_t *data)
{
    struct lm_cursor c = lm_cursor_of(f);
    struct gguf_tensor *t;

    lm_cur_bytes(&c, 8);
    uint64_t n_tensors = lm_cur_u64(&c), n_pairs = lm_cur_u64(&c);
    *alignment = 32;
    *n = 0;
    if (c.failed || n_tensors > f.size / 24 || !skip_pairs(&c, n_pairs, alignment))
        return NULL;
    if (*alignment == 0 || (*alignment & (*alignment - 1)))
        return NULL;
    t = calloc((size_t)n_tensors + 1, sizeof *t);
    for (; t && *n < n_tensors; (*n)++)
        if (!read_tensor(&c, &t[*n])) {
            free(t);
            return NULL;
        }
    if (!lm_align_up_u64(c.pos, *alignment, data))
        *data = f.size;
    return t;
}

/* The number that GGUF gives a type, as its writer writes it. */
static bool type_id(const struct lm_format *gguf, enum lm_dtype d, uint32_t *id)
{
    struct lm_write_tensor one = {"t", d, 1, {lm_dtype_info(d)->block_elems}};
    struct lm_write_spec spec = {.tensors = &one, .n_tensors = 1, .meta = lm_meta_new()};
    struct lm_layout l = {0};
    struct gguf_tensor *t = NULL;
    uint64_t alignment, data;
    size_t n = 0;

    if (spec.meta && gguf->can_store(d) && gguf->layout(&l, &spec, "t.gguf", NULL) == 0)
        t = walk_gguf(lm_span_of(l.files[0].head, l.files[0].n_head), &n, &alignment, &data);
    bool ok = t && n == 1;
    if (ok)
        *id = t[0].type;
    free(t);
    lm_layout_free(&l);
    lm_meta_free((struct lm_meta *)(uintptr_t)spec.meta);
    return ok;
}

struct type_map { uint32_t id; enum lm_dtype d; };

static size_t all_types(struct type_map *map)
{
    const struct lm_format *gguf = lm_format_find("gguf");
    size_t n = 0;

    for (int d = 0; gguf && d < LM_N_DTYPES; d++)
        if (type_id(gguf, (enum lm_dtype)d, &map[n].id))
            map[n++].d = (enum lm_dtype)d;
    return n;
}

static int dtype_of(const struct type_map *map, size_t n, uint32_t id)
{
    for (size_t i = 0; i < n; i++)
        if (map[i].id == id)
            return (int)map[i].d;
    return -1;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(((const struct region *)a)->name, ((const struct region *)b)->name);
}

static void check_twice(struct lm_audit *a, struct regions *r)
{
    if (r->n)
        qsort(r->of, r->n, sizeof *r->of, by_text);
    for (size_t i = 1; i < r->n; i++)
        if (strcmp(r->of[i].name, r->of[i - 1].name) == 0)
            lmc_found(a, LM_RULE_tensor_twice, r->of[i].name, "the file lists it twice");
}

static void add_region(struct lm_audit *a, struct regions *r, const struct gguf_tensor *t, int d)
{
    char *name = lm_arena_str(&a->arena, t->name);
    uint64_t size = d < 0 ? 0 : lm_dtype_bytes((enum lm_dtype)d, t->n_elems), end;

    if (!name || !lm_add_u64(t->offset, size, &end)) {
        a->failed |= !name;
        return;
    }
    if (d < 0)
        lmc_found(a, LM_RULE_type_unknown, name, "its type has the number %u", t->type);
    r->of[r->n++] = (struct region){name, t->offset, end, size};
}

static void scan_gguf(struct lm_audit *a, const char *path, struct lm_span f)
{
    struct type_map map[LM_N_DTYPES];
    struct regions r = {0};
    uint64_t data;
    size_t n, n_types = all_types(map);
    struct gguf_tensor *t = walk_gguf(f, &n, &r.alignment, &data);

    if (!t)
        return; /* the reader's own sentence is reported */
    r.n_data = f.size > data ? f.size - data : 0;
    r.of = calloc(n + 1, sizeof *r.of);
    for (size_t i = 0; r.of && i < n; i++)
        add_region(a, &r, &t[i], dtype_of(map, n_types, t[i].type));
    check_twice(a, &r);
    check_regions(a, path, &r);
    free(r.of);
    free(t);
}

/* ---- one file of whatever kind */

static bool begins(struct lm_span f, const char *text)
{
    size_t i = 0, n = strlen(text);

    while (i < f.size && i < 16 && (f.data[i] == ' ' || f.data[i] == '\n' || f.data[i] == '\r' || f.data[i] == '\t'))
        i++;
    return f.size - i >= n && strncasecmp((const char *)f.data + i, text, n) == 0;
}

static bool has_name(const char *path, const char *suffix)
{
    return lmc_has_suffix(path, suffix);
}

static void scan_bytes(struct lm_audit *a, const char *path, struct lm_span f)
{
    if (f.size == 0)
        lmc_found(a, LM_RULE_file_empty, path, "it has 0 bytes");
    else if (begins(f, "version https://git-lfs"))
        lmc_found(a, LM_RULE_file_lfs_pointer, path, "it has %zu bytes of text", f.size);
    else if (begins(f, "<!doctype html") || begins(f, "<html") || begins(f, "<?xml"))
        lmc_found(a, LM_RULE_file_web_page, path, "it begins with '<'");
    else if (f.size >= 4 && memcmp(f.data, "GGUF", 4) == 0)
        scan_gguf(a, path, f);
    else if (has_name(path, ".safetensors") || (f.size > 8 && f.data[8] == '{'))
        scan_safetensors(a, path, f);
    else
        lmc_audit_pickle(a, path, f);
}

static void scan_file(struct lm_audit *a, const char *path)
{
    struct stat s;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || fstat(fd, &s) < 0 || !S_ISREG(s.st_mode)) {
        if (fd >= 0)
            close(fd);
        return;
    }
    const char *own = lm_arena_str(&a->arena, lm_span_str(path));
    void *map = s.st_size ? mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    if (own && map != MAP_FAILED)
        scan_bytes(a, own, lm_span_of(map, (size_t)s.st_size));
    if (map && map != MAP_FAILED)
        munmap(map, (size_t)s.st_size);
    close(fd);
}

/* ---- an index and its shards */

static void scan_index(struct lm_audit *a, const char *dir, const char *index)
{
    json_t *root = json_load_file(index, JSON_REJECT_DUPLICATES, NULL), *file;
    const char *tensor, *seen = "";

    json_object_foreach(json_object_get(root, "weight_map"), tensor, file) {
        const char *name = json_string_value(file);
        char *path = NULL;
        if (!name || strchr(name, '/') || strcmp(name, seen) == 0 || asprintf(&path, "%s/%s", dir, name) < 0)
            continue;
        seen = name;
        if (access(path, F_OK) < 0 && errno == ENOENT)
            lmc_found(a, LM_RULE_shard_missing, name, "the index expects '%s' in it", tensor);
        free(path);
    }
    json_decref(root);
}

static void scan_entry(struct lm_audit *a, const char *dir, const char *name)
{
    char *path = NULL;

    if (name[0] == '.' || asprintf(&path, "%s/%s", dir, name) < 0)
        return;
    if (has_name(name, ".index.json"))
        scan_index(a, dir, path);
    else if (has_name(name, ".safetensors") || has_name(name, ".gguf"))
        scan_file(a, path);
    free(path);
}

static int ordinary(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static void scan_folder(struct lm_audit *a, const char *dir)
{
    struct dirent **list = NULL;
    int n = scandir(dir, &list, ordinary, alphasort);

    for (int i = 0; i < n; i++) {
        scan_entry(a, dir, list[i]->d_name);
        free(list[i]);
    }
    free(list);
}

/* What the reader's sentence says, where counting found nothing. */
static void by_message(struct lm_audit *a, const char *path, const struct lm_err *why)
{
    static const struct { const char *says; enum lm_rule_id rule; } rows[] = {
        {"two models", LM_RULE_two_models},   {"holds several", LM_RULE_two_models},
        {"several safetensors", LM_RULE_two_models}, {"weight_map", LM_RULE_index_wrong},
        {"does not hold it", LM_RULE_index_wrong},   {"cut short", LM_RULE_file_truncated},
        {"part ", LM_RULE_shard_missing},
    };
    enum lm_rule_id rule = why->code == LM_UNSUPPORTED || why->code == LM_MISSING ? LM_RULE_file_foreign : LM_RULE_header_broken;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strstr(why->text, rows[i].says)) {
            rule = rows[i].rule;
            break;
        }
    lmc_found(a, rule, path, "%s", why->text);
}

void lmc_audit_file(struct lm_audit *a, const char *path, const struct lm_err *why)
{
    struct stat s;
    bool folder = stat(path, &s) == 0 && S_ISDIR(s.st_mode);
    const char *base = lmc_base_name(path);
    char *dir = folder ? strdup(path) : base == path ? strdup(".") : strndup(path, (size_t)(base - path));

    if (!dir) {
        a->failed = true;
        return;
    }
    if (folder)
        scan_folder(a, dir);
    else if (has_name(path, ".index.json"))
        scan_index(a, dir, path);
    else
        scan_file(a, path);
    if (a->n_findings == 0)
        by_message(a, path, why);
    free(dir);
}
