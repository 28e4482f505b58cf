/* Zip archives of a mapped file: the directory, checked against every local
 * header, and members.  Stricter than most readers on purpose: what two readers
 * could understand differently is refused.  Private to libmodel.
 * https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT */
#ifndef LIBMODEL_PARSE_ZIP_H
#define LIBMODEL_PARSE_ZIP_H

#include "libmodel/bytes.h"
#include "libmodel/err.h"

struct lmi_zip_entry {
    struct lm_span name;      /* in the file */
    uint64_t begin, end;      /* local header to data descriptor */
    uint64_t data, n_stored;  /* where its bytes lie */
    uint64_t n_bytes;         /* after inflating */
    uint32_t crc;             /* 0 and wrong ones exist: PyTorch can be told not to compute it */
    bool deflated;
};

struct lmi_zip {
    struct lm_span file;
    struct lmi_zip_entry *entries; /* directory order */
    size_t n;
    struct lm_map *by_name;
};

/* Reads and checks the directory: sizes, offsets, names (no absolute ones, no
 * "..", none twice), methods (stored, deflated) and flags, local headers equal
 * to central ones, no overlap. Zero-initialise; free with lmi_zip_close, also
 * after a failure. */
int lmi_zip_open(struct lmi_zip *z, struct lm_span file, struct lm_err *e);
void lmi_zip_close(struct lmi_zip *z);
const struct lmi_zip_entry *lmi_zip_find(const struct lmi_zip *z, const char *name); /* or NULL */

/* The first n <= n_bytes bytes of a member into dst. When that is all of it,
 * the deflated stream must end exactly there and a CRC that is not 0 fit. */
int lmi_zip_read(const struct lmi_zip *z, const struct lmi_zip_entry *m, uint8_t *dst, uint64_t n, struct lm_err *e);
/* The same for deflated bytes kept apart from their archive. whole: n is all. */
int lmi_inflate(uint8_t *dst, uint64_t n, bool whole, struct lm_span stored, uint32_t crc, struct lm_err *e);

/* What a zip is, by the names in its directory (or, when that is missing or
 * broken, near its start), without any check. */
enum lmi_zip_kind { LMI_ZIP_NONE, LMI_ZIP_TORCH, LMI_ZIP_NPZ, LMI_ZIP_KERAS, LMI_ZIP_OTHER };
enum lmi_zip_kind lmi_zip_kind(struct lm_span file);
#endif
