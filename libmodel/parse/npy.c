#include "libmodel/parse/npy.h"

#include "libmodel/fmt/fmt.h"

/* ---- types */

static const struct {
    const char *name; /* after the byte order */
    enum lm_dtype dtype;
    const char *descr;
} types[] = {
    {"f8", LM_F64, "<f8"}, {"f4", LM_F32, "<f4"}, {"f2", LM_F16, "<f2"}, {"V2", LM_BF16, "<V2"},
    {"i8", LM_I64, "<i8"}, {"i4", LM_I32, "<i4"}, {"i2", LM_I16, "<i2"}, {"i1", LM_I8, "|i1"},
    {"u8", LM_U64, "<u8"}, {"u4", LM_U32, "<u4"}, {"u2", LM_U16, "<u2"}, {"u1", LM_U8, "|u1"},
    {"b1", LM_BOOL, "|b1"}, {"c8", LM_C64, "<c8"},
};
enum { N_TYPES = sizeof types / sizeof types[0] };

const char *lmi_npy_descr(enum lm_dtype d)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (types[i].dtype == d)
            return types[i].descr;
    return NULL;
}

static int refuse_type(struct lm_span s, struct lm_err *e)
{
    char kind = s.size > 1 ? (char)s.data[1] : 0;
    const char *what = kind == 'O'                  ? "Python objects (a pickle), which are never unpacked"
                       : kind == 'U' || kind == 'S' ? "text, not numbers"
                       : kind == 'M' || kind == 'm' ? "times, not numbers"
                       : kind == 'V'                ? "raw bytes (of a structured or foreign type)"
                                                    : "a type that is not handled";

    return lm_err_set(e, LM_UNSUPPORTED, "the array's type '%.*s' is %s", LMI_SHOW(s), what);
}

static int read_type(struct lmi_npy *n, struct lm_span s, struct lm_err *e)
{
    if (s.size < 3 || !memchr("<>|=", s.data[0], 4))
        return refuse_type(s, e);
    for (size_t i = 0; i < N_TYPES; i++) {
        if (!lm_span_eq(lm_span_of(s.data + 1, s.size - 1), lm_span_str(types[i].name)))
            continue;
        n->dtype = types[i].dtype;
        n->big_endian = s.data[0] == '>' && lm_dtype_info(n->dtype)->block_bytes > 1;
        return 0;
    }
    return refuse_type(s, e);
}

/* ---- the dict: exactly the three keys, no expressions */

static bool is_space(uint8_t c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static uint8_t peek(struct lm_cursor *c)
{
    while (lm_cur_left(c) && is_space(c->all.data[c->pos]))
        c->pos++;
    return lm_cur_left(c) ? c->all.data[c->pos] : 0;
}

static bool take(struct lm_cursor *c, char what)
{
    if (peek(c) != (uint8_t)what)
        return false;
    c->pos++;
    return true;
}

static int bad(const struct lm_cursor *c, struct lm_err *e, const char *what)
{
    return lm_err_set(e, LM_MALFORMED, "the array's header, byte %zu: expected %s", c->pos, what);
}

static int read_text(struct lm_cursor *c, struct lm_span *out, struct lm_err *e)
{
    uint8_t quote = peek(c);

    if (quote != '\'' && quote != '"')
        return bad(c, e, "a text in quotes");
    size_t begin = ++c->pos;
    while (lm_cur_left(c) && c->all.data[c->pos] != quote && c->all.data[c->pos] != '\\')
        c->pos++;
    *out = lm_span_of(c->all.data + begin, c->pos - begin);
    return take(c, (char)quote) ? 0 : bad(c, e, "the end of a text");
}

static int read_number(struct lm_cursor *c, uint64_t *out, struct lm_err *e)
{
    uint64_t v = 0;
    size_t begin = (peek(c), c->pos);

    for (; lm_cur_left(c) && c->all.data[c->pos] >= '0' && c->all.data[c->pos] <= '9'; c->pos++)
        if (!lm_mul_u64(v, 10, &v) || !lm_add_u64(v, (uint64_t)(c->all.data[c->pos] - '0'), &v))
            return bad(c, e, "a size below 2^64");
    *out = v;
    if (c->pos > begin && lm_cur_left(c) && c->all.data[c->pos] == 'L') /* Python 2 */
        c->pos++;
    return c->pos > begin ? 0 : bad(c, e, "a size, a whole number that is not negative");
}

static int read_shape(struct lmi_npy *n, struct lm_cursor *c, struct lm_err *e)
{
    if (!take(c, '('))
        return bad(c, e, "a shape in parentheses");
    while (!take(c, ')')) {
        if (n->n_dims == LM_MAX_DIMS)
            return lm_err_set(e, LM_LIMIT, "the array has more than %d dimensions", LM_MAX_DIMS);
        if (read_number(c, &n->shape[n->n_dims], e) < 0)
            return -1;
        n->n_dims++;
        if (!take(c, ',') && peek(c) != ')')
            return bad(c, e, "a comma or the end of the shape");
    }
    return 0;
}

static int read_order(struct lmi_npy *n, struct lm_cursor *c, struct lm_err *e)
{
    static const char *const words[] = {"False", "True"};

    peek(c);
    for (int i = 0; i < 2; i++) {
        size_t size = strlen(words[i]);
        if (lm_cur_left(c) < size || memcmp(c->all.data + c->pos, words[i], size) != 0)
            continue;
        c->pos += size;
        n->fortran = i;
        return 0;
    }
    return bad(c, e, "True or False");
}

static int read_value(struct lmi_npy *n, struct lm_span key, struct lm_cursor *c, unsigned *seen, struct lm_err *e)
{
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    struct lm_span type;
    unsigned i = 0;

    while (i < 3 && !lm_span_eq(key, lm_span_str(keys[i])))
        i++;
    if (i == 3 || *seen & 1u << i)
        return lm_err_set(e, LM_MALFORMED, "the array's header has a key '%.*s' that is unknown or there twice",
                          LMI_SHOW(key));
    *seen |= 1u << i;
    if (i == 0 && peek(c) == '[')
        return lm_err_set(e, LM_UNSUPPORTED, "the array has a structured type (several fields), not numbers");
    if (i == 0)
        return read_text(c, &type, e) < 0 ? -1 : read_type(n, type, e);
    return i == 1 ? read_order(n, c, e) : read_shape(n, c, e);
}

static int read_dict(struct lmi_npy *n, struct lm_cursor *c, struct lm_err *e)
{
    struct lm_span key;
    unsigned seen = 0;

    if (!take(c, '{'))
        return bad(c, e, "'{'");
    while (!take(c, '}')) {
        if (read_text(c, &key, e) < 0)
            return -1;
        if (!take(c, ':'))
            return bad(c, e, "':'");
        if (read_value(n, key, c, &seen, e) < 0)
            return -1;
        if (!take(c, ',') && peek(c) != '}')
            return bad(c, e, "a comma or '}'");
    }
    if (peek(c), lm_cur_left(c))
        return bad(c, e, "nothing after '}'");
    return seen == 7 ? 0 : lm_err_set(e, LM_MALFORMED, "the array's header lacks descr, fortran_order or shape");
}

/* ---- around it */

int lmi_npy_measure(size_t *n_head, struct lm_span first, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(first);
    struct lm_span magic = lm_cur_bytes(&c, 6);

    if (c.failed || memcmp(magic.data, "\x93NUMPY", 6) != 0)
        return lm_err_set(e, LM_MALFORMED, "it does not begin as a NumPy array");
    uint8_t major = lm_cur_u8(&c), minor = lm_cur_u8(&c);
    if (!c.failed && (major < 1 || major > 3 || minor != 0))
        return lm_err_set(e, LM_UNSUPPORTED, "version %u.%u of NumPy's format is not known", major, minor);
    uint64_t n = major == 1 ? lm_cur_u16(&c) : lm_cur_u32(&c);
    if (c.failed)
        return lm_err_set(e, LM_MALFORMED, "the array's header is cut short");
    if (n > LMI_NPY_MAX_HEAD)
        return lm_err_set(e, LM_LIMIT, "the array's header claims %llu bytes, at most %d are read", (unsigned long long)n,
                          LMI_NPY_MAX_HEAD);
    *n_head = c.pos + (size_t)n;
    return 0;
}

int lmi_npy_read(struct lmi_npy *out, struct lm_span head, struct lm_err *e)
{
    struct lm_span first = lm_span_of(head.data, head.size < LMI_NPY_FIRST ? head.size : LMI_NPY_FIRST);

    *out = (struct lmi_npy){0};
    if (lmi_npy_measure(&out->n_head, first, e) < 0)
        return -1;
    if (out->n_head > head.size)
        return lm_err_set(e, LM_MALFORMED, "the array's header is cut short");
    size_t begin = head.data[6] == 1 ? 10 : 12;
    struct lm_cursor c = lm_cursor_of(lm_span_of(head.data + begin, out->n_head - begin));
    return read_dict(out, &c, e);
}
