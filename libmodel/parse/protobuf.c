#include "libmodel/parse/protobuf.h"

#include <stdlib.h>

/* At most ten bytes; the tenth may carry one bit. */
static int read_varint(struct lm_cursor *c, uint64_t *out)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 70; shift += 7) {
        uint8_t byte = lm_cur_u8(c);
        if (c->failed || (shift == 63 && byte > 1))
            return -1;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = v;
            return 0;
        }
    }
    return -1;
}

static int read_value(struct lm_cursor *c, struct lmi_pb_field *f)
{
    uint64_t n;

    switch (f->wire) {
    case LMI_PB_VARINT:
        return read_varint(c, &f->value);
    case LMI_PB_64BIT:
        f->value = lm_cur_u64(c);
        break;
    case LMI_PB_32BIT:
        f->value = lm_cur_u32(c);
        break;
    case LMI_PB_BYTES:
        if (read_varint(c, &n) < 0)
            return -1;
        f->bytes = lm_cur_bytes(c, n);
        break;
    default:
        return -1;
    }
    return c->failed ? -1 : 0;
}

int lmi_pb_next(struct lm_cursor *c, struct lmi_pb_field *f, struct lm_err *e)
{
    size_t at = c->pos;
    uint64_t tag;

    if (lm_cur_left(c) == 0)
        return 0;
    *f = (struct lmi_pb_field){0};
    if (read_varint(c, &tag) < 0 || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
        return lm_err_set(e, LM_MALFORMED, "byte %zu of a protobuf message is no field tag", at);
    f->number = (uint32_t)(tag >> 3);
    f->wire = (enum lmi_pb_wire)(tag & 7);
    if (read_value(c, f) < 0)
        return lm_err_set(e, LM_MALFORMED,
                          "field %u at byte %zu of a protobuf message (wire type %u) is cut short or malformed",
                          f->number, at, (unsigned)(tag & 7));
    return 1;
}

int lmi_pb_expect(const struct lmi_pb_field *f, enum lmi_pb_wire wire, struct lm_err *e)
{
    if (f->wire != wire)
        return lm_err_set(e, LM_MALFORMED, "field %u has wire type %u, expected %u", f->number, (unsigned)f->wire,
                          (unsigned)wire);
    return 0;
}

float lmi_pb_float(const struct lmi_pb_field *f)
{
    uint8_t b[4];

    lm_store_u32le(b, (uint32_t)f->value);
    return lm_load_f32le(b);
}

/* ---- writer */

void lmi_buf_add(struct lmi_buf *b, const void *data, size_t n)
{
    if (b->failed || n == 0)
        return;
    if (n > b->capacity - b->n) {
        size_t capacity = b->capacity * 2 > b->n + n ? b->capacity * 2 : b->n + n + 256;
        uint8_t *p = n > SIZE_MAX / 4 ? NULL : realloc(b->data, capacity);
        if (!p) {
            b->failed = true;
            return;
        }
        b->data = p;
        b->capacity = capacity;
    }
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

void lmi_buf_str(struct lmi_buf *b, const char *s)
{
    lmi_buf_add(b, s, strlen(s));
}

void lmi_buf_free(struct lmi_buf *b)
{
    free(b->data);
    *b = (struct lmi_buf){0};
}

static void put_varint(struct lmi_buf *b, uint64_t v)
{
    uint8_t bytes[10];
    size_t n = 0;

    for (; v >= 0x80; v >>= 7)
        bytes[n++] = (uint8_t)(v | 0x80);
    bytes[n++] = (uint8_t)v;
    lmi_buf_add(b, bytes, n);
}

static void put_tag(struct lmi_buf *b, uint32_t number, enum lmi_pb_wire wire)
{
    put_varint(b, (uint64_t)number << 3 | wire);
}

void lmi_pb_put_uint(struct lmi_buf *b, uint32_t number, uint64_t value)
{
    put_tag(b, number, LMI_PB_VARINT);
    put_varint(b, value);
}

void lmi_pb_put_float(struct lmi_buf *b, uint32_t number, float value)
{
    uint8_t bytes[4];
    uint32_t u;

    memcpy(&u, &value, sizeof u);
    lm_store_u32le(bytes, u);
    put_tag(b, number, LMI_PB_32BIT);
    lmi_buf_add(b, bytes, sizeof bytes);
}

void lmi_pb_put_bytes(struct lmi_buf *b, uint32_t number, struct lm_span value)
{
    put_tag(b, number, LMI_PB_BYTES);
    put_varint(b, value.size);
    lmi_buf_add(b, value.data, value.size);
}
