/* The protobuf wire format, as much as SentencePiece models use: a bounded
 * reader of fields and a growing writer. Private to libmodel.
 * https://protobuf.dev/programming-guides/encoding/ */
#ifndef LIBMODEL_PARSE_PROTOBUF_H
#define LIBMODEL_PARSE_PROTOBUF_H

#include "libmodel/bytes.h"
#include "libmodel/err.h"

enum lmi_pb_wire { LMI_PB_VARINT = 0, LMI_PB_64BIT = 1, LMI_PB_BYTES = 2, LMI_PB_32BIT = 5 };

struct lmi_pb_field {
    uint32_t number;
    enum lmi_pb_wire wire;
    uint64_t value;       /* VARINT, 64BIT, 32BIT */
    struct lm_span bytes; /* BYTES; lies inside the cursor's span */
};

/* 1 a field, 0 the end of the message, -1 malformed (groups are refused). */
int lmi_pb_next(struct lm_cursor *c, struct lmi_pb_field *f, struct lm_err *e);
/* -1 unless the field has this wire type. */
int lmi_pb_expect(const struct lmi_pb_field *f, enum lmi_pb_wire wire, struct lm_err *e);
float lmi_pb_float(const struct lmi_pb_field *f);

/* Writer. When memory runs out `failed` is set and later writes do nothing. */
struct lmi_buf {
    uint8_t *data;
    size_t n, capacity;
    bool failed;
};
void lmi_buf_add(struct lmi_buf *b, const void *data, size_t n);
void lmi_buf_str(struct lmi_buf *b, const char *s);
void lmi_buf_free(struct lmi_buf *b);
void lmi_pb_put_uint(struct lmi_buf *b, uint32_t number, uint64_t value);
void lmi_pb_put_float(struct lmi_buf *b, uint32_t number, float value);
void lmi_pb_put_bytes(struct lmi_buf *b, uint32_t number, struct lm_span value);

#endif
