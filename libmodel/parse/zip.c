#include "libmodel/parse/zip.h"

#include <stdlib.h>
#include <zlib.h>

#include "libmodel/fmt/fmt.h"

enum {
    LOCAL = 0x04034b50, CENTRAL = 0x02014b50, DESCRIPTOR = 0x08074b50, END = 0x06054b50,
    END64 = 0x06064b50, LOCATOR64 = 0x07064b50,
    LOCAL_SIZE = 30, CENTRAL_SIZE = 46, END_SIZE = 22, END64_SIZE = 56, LOCATOR64_SIZE = 20,
    MAX_COMMENT = 65535,
    FLAG_LEVEL = 0x6, FLAG_DESCRIPTOR = 0x8, FLAG_UTF8 = 0x800,
    STORED = 0, DEFLATED = 8,
    EXTRA_ZIP64 = 1
};

typedef unsigned long long ull; /* for printf */

/* ---- the end of the archive */

struct end {
    uint64_t at;               /* where the end records begin: the directory ends there */
    uint64_t n, size, offset;  /* of the directory */
};

static bool is_end(struct lm_span f, size_t at)
{
    return lm_load_u32le(f.data + at) == END && f.size - at - END_SIZE == lm_load_u16le(f.data + at + 20);
}

/* The only place where an end record with its comment reaches the end of the
 * file: two of them (one inside the other's comment) are two archives. */
static int find_end(struct lm_span f, size_t *at, struct lm_err *e)
{
    size_t lowest = f.size > END_SIZE + MAX_COMMENT ? f.size - END_SIZE - MAX_COMMENT : 0, n_found = 0;

    for (size_t i = f.size >= END_SIZE ? f.size - END_SIZE + 1 : 0; i-- > lowest;)
        if (is_end(f, i)) {
            *at = i;
            n_found++;
        }
    if (n_found > 1)
        return lm_err_set(e, LM_MALFORMED, "the zip has %zu end records, one inside the comment of another: it is two "
                          "archives in one", n_found);
    if (n_found == 0)
        return lm_err_set(e, LM_MALFORMED, "the zip's directory, which is at its end, is missing: the file is cut short, "
                          "not completely downloaded, or something follows it");
    return 0;
}

static int read_end64(struct lm_span f, struct end *d, size_t locator, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(f);

    c.pos = locator + 4;
    uint32_t disk = lm_cur_u32(&c);
    uint64_t at = lm_cur_u64(&c);
    uint32_t n_disks = lm_cur_u32(&c);
    if (disk != 0 || n_disks != 1)
        return lm_err_set(e, LM_UNSUPPORTED, "the zip is one of several parts, which are not read");
    if (locator < END64_SIZE || at > locator - END64_SIZE || lm_load_u32le(f.data + at) != END64)
        return lm_err_set(e, LM_MALFORMED, "the zip64 end record is not at byte %llu, where its locator says", (ull)at);
    c.pos = at + 4;
    uint64_t size = lm_cur_u64(&c);
    if (size != locator - at - 12)
        return lm_err_set(e, LM_MALFORMED, "the zip64 end record at byte %llu says it has %llu bytes, up to its locator "
                          "there are %llu", (ull)at, (ull)size, (ull)(locator - at - 12));
    c.pos += 4;
    uint64_t disks = lm_cur_u64(&c), n_here = lm_cur_u64(&c), n = lm_cur_u64(&c), n_bytes = lm_cur_u64(&c);
    uint64_t offset = lm_cur_u64(&c);
    if (disks != 0 || n_here != n)
        return lm_err_set(e, LM_UNSUPPORTED, "the zip is one of several parts, which are not read");
    if ((d->n != 0xffff && d->n != n) || (d->size != UINT32_MAX && d->size != n_bytes) ||
        (d->offset != UINT32_MAX && d->offset != offset))
        return lm_err_set(e, LM_MALFORMED, "the zip's two end records disagree about its directory");
    *d = (struct end){at, n, n_bytes, offset};
    return 0;
}

static int read_end(struct lm_span f, struct end *d, struct lm_err *e)
{
    size_t at = 0;

    if (find_end(f, &at, e) < 0)
        return -1;
    struct lm_cursor c = lm_cursor_of(f);
    c.pos = at + 4;
    uint32_t disks = lm_cur_u32(&c), n_here = lm_cur_u16(&c);
    *d = (struct end){.at = at, .n = lm_cur_u16(&c)};
    d->size = lm_cur_u32(&c);
    d->offset = lm_cur_u32(&c);
    if (disks != 0 || n_here != d->n)
        return lm_err_set(e, LM_UNSUPPORTED, "the zip is one of several parts, which are not read");
    bool has64 = at >= LOCATOR64_SIZE && lm_load_u32le(f.data + at - LOCATOR64_SIZE) == LOCATOR64;
    bool needs64 = d->n == 0xffff || d->size == UINT32_MAX || d->offset == UINT32_MAX;
    if (needs64 && !has64)
        return lm_err_set(e, LM_MALFORMED, "the zip's end record points to a zip64 record that is not there");
    if (has64 && read_end64(f, d, at - LOCATOR64_SIZE, e) < 0)
        return -1;
    if (d->offset > d->at || d->size != d->at - d->offset)
        return lm_err_set(e, LM_MALFORMED, "the zip's directory (%llu bytes at %llu) does not end where its end record "
                          "begins (%llu)", (ull)d->size, (ull)d->offset, (ull)d->at);
    return 0;
}

/* ---- members */

static int bad(const struct lmi_zip_entry *m, struct lm_err *e, const char *what)
{
    return lm_err_set(e, LM_MALFORMED, "zip member '%.*s': %s", LMI_SHOW(m->name), what);
}

/* Names become no paths here, but whoever else unpacks the file is warned. */
static int check_name(const struct lmi_zip_entry *m, struct lm_err *e)
{
    const uint8_t *s = m->name.data;
    size_t n = m->name.size;

    if (n == 0 || memchr(s, 0, n) || memchr(s, '\\', n) || !lm_utf8_valid(m->name))
        return bad(m, e, "the name is empty, holds a NUL or a backslash, or is not UTF-8");
    if (s[0] == '/' || (n > 1 && s[1] == ':'))
        return bad(m, e, "the name is an absolute path");
    for (size_t i = 0; i + 2 <= n; i++)
        if (s[i] == '.' && s[i + 1] == '.' && (i == 0 || s[i - 1] == '/') && (i + 2 == n || s[i + 2] == '/'))
            return bad(m, e, "the name leads out of its folder");
    return 0;
}

static int check_method(const struct lmi_zip_entry *m, unsigned flags, unsigned method, uint32_t attributes,
                        struct lm_err *e)
{
    if (flags & 1)
        return lm_err_set(e, LM_UNSUPPORTED, "zip member '%.*s' is encrypted", LMI_SHOW(m->name));
    if (flags & ~(unsigned)(FLAG_LEVEL | FLAG_DESCRIPTOR | FLAG_UTF8))
        return lm_err_set(e, LM_UNSUPPORTED, "zip member '%.*s' has flags 0x%x, which no writer of models sets",
                          LMI_SHOW(m->name), flags);
    if (method != STORED && method != DEFLATED)
        return lm_err_set(e, LM_UNSUPPORTED, "zip member '%.*s' is compressed by method %u; only stored and deflated "
                          "members are read", LMI_SHOW(m->name), method);
    if ((attributes >> 16 & 0170000) == 0120000)
        return bad(m, e, "a symbolic link");
    if (method == STORED && m->n_stored != m->n_bytes)
        return bad(m, e, "it is stored, but its two sizes differ");
    return 0;
}

/* The zip64 values that stand for fields of all ones, in their fixed order. */
static int read_extra(struct lm_span extra, uint64_t *const fields[3], struct lm_err *e, const struct lmi_zip_entry *m)
{
    struct lm_cursor c = lm_cursor_of(extra);
    bool seen = false;

    while (lm_cur_left(&c) >= 4) {
        unsigned id = lm_cur_u16(&c), size = lm_cur_u16(&c);
        struct lm_cursor body = lm_cursor_of(lm_cur_bytes(&c, size));
        if (c.failed)
            return bad(m, e, "an extra field ends beyond the others");
        if (id != EXTRA_ZIP64)
            continue;
        if (seen)
            return bad(m, e, "two zip64 fields");
        seen = true;
        for (int i = 0; i < 3; i++)
            if (fields[i] && *fields[i] == UINT32_MAX)
                *fields[i] = lm_cur_u64(&body);
        if (body.failed)
            return bad(m, e, "its zip64 field is too short");
    }
    return lm_cur_left(&c) ? bad(m, e, "bytes after its extra fields") : 0;
}

static bool descriptor_is(struct lm_span f, uint64_t at, const struct lmi_zip_entry *m, bool mark, bool wide, size_t *n)
{
    struct lm_cursor c = lm_cursor_of(f);

    c.pos = (size_t)at;
    if (mark && lm_cur_u32(&c) != DESCRIPTOR)
        return false;
    uint32_t crc = lm_cur_u32(&c);
    uint64_t stored = wide ? lm_cur_u64(&c) : lm_cur_u32(&c), size = wide ? lm_cur_u64(&c) : lm_cur_u32(&c);
    *n = c.pos - (size_t)at;
    return !c.failed && crc == m->crc && stored == m->n_stored && size == m->n_bytes;
}

/* Written after the data by who did not know the sizes before: with or without
 * a mark, narrow or wide, and nothing says which. */
static int skip_descriptor(struct lm_span f, struct lmi_zip_entry *m, struct lm_err *e)
{
    size_t n = 0;

    for (int i = 0; i < 4; i++)
        if (descriptor_is(f, m->end, m, i < 2, i % 2 == 0, &n)) {
            m->end += n;
            return 0;
        }
    return bad(m, e, "the sizes after its data are not those of the directory");
}

/* m is filled from the directory; its local header must say the same. */
static int check_local(struct lm_span f, struct lmi_zip_entry *m, unsigned flags, unsigned method, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(f);

    if (m->begin > f.size)
        return bad(m, e, "it begins beyond the end of the file");
    c.pos = (size_t)m->begin;
    if (lm_cur_u32(&c) != LOCAL)
        return bad(m, e, "there is no local header where the directory says");
    lm_cur_u16(&c);
    unsigned its_flags = lm_cur_u16(&c), its_method = lm_cur_u16(&c);
    lm_cur_u32(&c);
    uint32_t crc = lm_cur_u32(&c);
    uint64_t stored = lm_cur_u32(&c), size = lm_cur_u32(&c);
    unsigned n_name = lm_cur_u16(&c), n_extra = lm_cur_u16(&c);
    struct lm_span name = lm_cur_bytes(&c, n_name), extra = lm_cur_bytes(&c, n_extra);
    if (c.failed)
        return bad(m, e, "its local header is cut short");
    if (!lm_span_eq(name, m->name) || its_flags != flags || its_method != method)
        return bad(m, e, "its local header has another name, method or flags than the directory");
    if (read_extra(extra, (uint64_t *const[3]){&size, &stored, NULL}, e, m) < 0)
        return -1;
    bool late = flags & FLAG_DESCRIPTOR;
    if (!((crc == m->crc && stored == m->n_stored && size == m->n_bytes) ||
          (late && (crc == 0 || crc == m->crc) && (stored == 0 || stored == m->n_stored) &&
           (size == 0 || size == m->n_bytes))))
        return bad(m, e, "its local header has other sizes or another CRC than the directory");
    m->data = c.pos;
    lm_cur_bytes(&c, m->n_stored);
    if (c.failed)
        return bad(m, e, "its data end beyond the file");
    m->end = c.pos;
    return late ? skip_descriptor(f, m, e) : 0;
}

static int read_member(struct lm_span f, struct lm_cursor *c, struct lmi_zip_entry *m, struct lm_err *e)
{
    if (lm_cur_u32(c) != CENTRAL)
        return lm_err_set(e, LM_MALFORMED, "the zip's directory holds fewer members than its end record says");
    lm_cur_u32(c);
    unsigned flags = lm_cur_u16(c), method = lm_cur_u16(c);
    lm_cur_u32(c);
    m->crc = lm_cur_u32(c);
    m->n_stored = lm_cur_u32(c);
    m->n_bytes = lm_cur_u32(c);
    unsigned n_name = lm_cur_u16(c), n_extra = lm_cur_u16(c), n_comment = lm_cur_u16(c), disk = lm_cur_u16(c);
    lm_cur_u16(c);
    uint32_t attributes = lm_cur_u32(c);
    m->begin = lm_cur_u32(c);
    m->name = lm_cur_bytes(c, n_name);
    struct lm_span extra = lm_cur_bytes(c, n_extra);
    lm_cur_bytes(c, n_comment);
    m->deflated = method == DEFLATED;
    if (c->failed || disk != 0)
        return lm_err_set(e, LM_MALFORMED, "the zip's directory is cut short or of several parts");
    if (check_name(m, e) < 0 || read_extra(extra, (uint64_t *const[3]){&m->n_bytes, &m->n_stored, &m->begin}, e, m) < 0)
        return -1;
    return check_method(m, flags, method, attributes, e) < 0 ? -1 : check_local(f, m, flags, method, e);
}

/* ---- the whole */

static int by_begin(const void *a, const void *b)
{
    const struct lmi_zip_entry *x = *(const struct lmi_zip_entry *const *)a, *y = *(const struct lmi_zip_entry *const *)b;

    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Members that share bytes are how 42 kB become 5 GB. */
static int check_overlap(const struct lmi_zip *z, uint64_t directory, struct lm_err *e)
{
    const struct lmi_zip_entry **order = calloc(z->n + 1, sizeof *order);
    int rc = order ? 0 : lmi_nomem(e);
    uint64_t pos = 0;

    for (size_t i = 0; order && i < z->n; i++)
        order[i] = &z->entries[i];
    if (order && z->n)
        qsort(order, z->n, sizeof *order, by_begin);
    for (size_t i = 0; rc == 0 && i < z->n; i++) {
        if (order[i]->begin < pos)
            rc = bad(order[i], e, "it overlaps another member");
        pos = order[i]->end;
    }
    if (rc == 0 && pos > directory)
        rc = bad(order[z->n - 1], e, "it overlaps the directory");
    free(order);
    return rc;
}

static int read_directory(struct lmi_zip *z, const struct end *d, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(lm_span_of(z->file.data + d->offset, (size_t)d->size));

    if (d->n > d->size / CENTRAL_SIZE)
        return lm_err_set(e, LM_MALFORMED, "the zip's end record says %llu members, its directory of %llu bytes has no "
                          "room for them", (ull)d->n, (ull)d->size);
    z->entries = calloc((size_t)d->n + 1, sizeof *z->entries);
    z->by_name = lm_map_new((size_t)d->n);
    if (!z->entries || !z->by_name)
        return lmi_nomem(e);
    for (; z->n < d->n; z->n++) {
        struct lmi_zip_entry *m = &z->entries[z->n];
        if (read_member(z->file, &c, m, e) < 0)
            return -1;
        int put = lm_map_put(z->by_name, m->name, z->n);
        if (put <= 0)
            return put < 0 ? lmi_nomem(e) : bad(m, e, "two members have this name");
    }
    if (lm_cur_left(&c))
        return lm_err_set(e, LM_MALFORMED, "the zip's directory is longer than its %llu members", (ull)d->n);
    return check_overlap(z, d->offset, e);
}

int lmi_zip_open(struct lmi_zip *z, struct lm_span file, struct lm_err *e)
{
    struct end d;

    z->file = file;
    return read_end(file, &d, e) < 0 ? -1 : read_directory(z, &d, e);
}

void lmi_zip_close(struct lmi_zip *z)
{
    free(z->entries);
    lm_map_free(z->by_name);
    *z = (struct lmi_zip){0};
}

const struct lmi_zip_entry *lmi_zip_find(const struct lmi_zip *z, const char *name)
{
    size_t i = lm_map_get(z->by_name, lm_span_str(name));
    return i == SIZE_MAX ? NULL : &z->entries[i];
}

/* ---- data */

static unsigned at_most(uint64_t n)
{
    return n < 1u << 30 ? (unsigned)n : 1u << 30;
}

/* Inflates until n bytes are there. *ended: the stream said it was over. */
static int inflate_bytes(z_stream *s, uint8_t *dst, uint64_t n, struct lm_span in, bool *ended, bool *no_memory)
{
    size_t used = 0;
    uint64_t done = 0;
    int rc = Z_OK;

    while (rc == Z_OK && done < n) {
        unsigned give = at_most(in.size - used), want = at_most(n - done);
        s->next_in = (Bytef *)(uintptr_t)(in.data + used);
        s->avail_in = give;
        s->next_out = dst + done;
        s->avail_out = want;
        rc = inflate(s, Z_NO_FLUSH);
        used += give - s->avail_in;
        done += want - s->avail_out;
        if (rc == Z_OK && give == s->avail_in && want == s->avail_out)
            rc = Z_BUF_ERROR;
    }
    s->next_in = (Bytef *)(uintptr_t)(in.data + used);
    s->avail_in = at_most(in.size - used);
    *ended = rc == Z_STREAM_END;
    *no_memory = rc == Z_MEM_ERROR;
    return done == n ? 0 : -1;
}

/* Is the stream over, with nothing more to give and no input left? */
static bool is_over(z_stream *s, bool ended)
{
    uint8_t more;

    if (!ended) {
        s->next_out = &more;
        s->avail_out = 1;
        ended = inflate(s, Z_NO_FLUSH) == Z_STREAM_END && s->avail_out == 1;
    }
    return ended && s->avail_in == 0;
}

int lmi_inflate(uint8_t *dst, uint64_t n, bool whole, struct lm_span stored, uint32_t crc, struct lm_err *e)
{
    z_stream s = {0};
    bool ended = false, no_memory = false;

    if (inflateInit2(&s, -MAX_WBITS) != Z_OK)
        return lmi_nomem(e);
    bool enough = inflate_bytes(&s, dst, n, stored, &ended, &no_memory) == 0;
    bool over = !whole || is_over(&s, ended);
    inflateEnd(&s);
    if (no_memory)
        return lmi_nomem(e);
    if (!enough)
        return lm_err_set(e, LM_MALFORMED, "its deflated data are damaged or give less than the %llu bytes declared", (ull)n);
    if (!over)
        return lm_err_set(e, LM_MALFORMED, "its deflated data do not end after the %llu bytes declared", (ull)n);
    if (whole && crc != 0 && crc32_z(0, dst, (size_t)n) != crc)
        return lm_err_set(e, LM_MALFORMED, "its CRC does not fit: the data are damaged");
    return 0;
}

int lmi_zip_read(const struct lmi_zip *z, const struct lmi_zip_entry *m, uint8_t *dst, uint64_t n, struct lm_err *e)
{
    struct lm_span stored = lm_span_of(z->file.data + m->data, (size_t)m->n_stored);

    if (n > m->n_bytes)
        return bad(m, e, "it is shorter than expected");
    if (!m->deflated) {
        if (n)
            memcpy(dst, stored.data, (size_t)n);
        return 0;
    }
    return lmi_inflate(dst, n, n == m->n_bytes, stored, m->crc, e) < 0
               ? lm_err_prefix(e, "zip member '%.*s'", LMI_SHOW(m->name))
               : 0;
}

/* ---- recognition */

static bool ends_with(struct lm_span s, const char *end)
{
    size_t n = strlen(end);
    return s.size >= n && memcmp(s.data + s.size - n, end, n) == 0;
}

static bool has_near_start(struct lm_span f, const char *word)
{
    enum { WITHIN = 4096 };
    return memmem(f.data, f.size < WITHIN ? f.size : WITHIN, word, strlen(word)) != NULL;
}

static enum lmi_zip_kind kind_by_start(struct lm_span f)
{
    if (has_near_start(f, "model.weights.h5") || has_near_start(f, "model.weights.npz"))
        return LMI_ZIP_KERAS;
    return has_near_start(f, "/data.pkl") ? LMI_ZIP_TORCH : has_near_start(f, ".npy") ? LMI_ZIP_NPZ : LMI_ZIP_OTHER;
}

enum lmi_zip_kind lmi_zip_kind(struct lm_span f)
{
    struct end d;
    bool torch = false, keras = false;
    size_t n_npy = 0, n = 0;

    if (f.size < 4 || (lm_load_u32le(f.data) != LOCAL && lm_load_u32le(f.data) != END))
        return LMI_ZIP_NONE;
    if (read_end(f, &d, NULL) < 0)
        return kind_by_start(f);
    struct lm_cursor c = lm_cursor_of(lm_span_of(f.data + d.offset, (size_t)d.size));
    for (; lm_cur_left(&c) >= CENTRAL_SIZE; n++) {
        const uint8_t *at = c.all.data + c.pos;
        lm_cur_bytes(&c, CENTRAL_SIZE);
        struct lm_span name = lm_cur_bytes(&c, lm_load_u16le(at + 28));
        lm_cur_bytes(&c, (uint64_t)lm_load_u16le(at + 30) + lm_load_u16le(at + 32));
        if (c.failed)
            return kind_by_start(f);
        torch |= ends_with(name, "/data.pkl");
        keras |= lm_span_eq(name, lm_span_str("model.weights.h5")) || lm_span_eq(name, lm_span_str("model.weights.npz"));
        n_npy += ends_with(name, ".npy");
    }
    if (torch || keras)
        return torch ? LMI_ZIP_TORCH : LMI_ZIP_KERAS;
    return n > 0 && n_npy == n ? LMI_ZIP_NPZ : LMI_ZIP_OTHER;
}
