/* An importance file of either kind: read, written in both forms, read back. */
#include "tests/fuzz/fuzz.h"

#include "libmodel/imatrix.h"

static struct lm_imatrix *read_bytes(const void *data, size_t size)
{
    char path[64];
    struct lm_imatrix *m;
    struct lm_err e = {0};
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    require(fd >= 0 && write(fd, data, size) == (ssize_t)size, "a file in memory");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int rc = lm_imatrix_read(&m, path, &e);
    close(fd);
    require(rc == 0 || (e.code != LM_OK && e.text[0] && !m), "a refusal has a reason");
    return m;
}

static void round_trip_of(const struct lm_imatrix *m, bool legacy)
{
    uint8_t *bytes = NULL;
    size_t n;
    struct lm_imatrix *back;

    /* Names may be too long for a GGUF; a .dat may have nothing left, or infinity. */
    if (lm_imatrix_encode(m, legacy, &bytes, &n, NULL) != 0)
        return;
    back = read_bytes(bytes, n);
    require(!back || legacy || lm_imatrix_count(back) == lm_imatrix_count(m), "the same entries");
    require(!back || lm_imatrix_count(back) <= lm_imatrix_count(m), "no more entries");
    lm_imatrix_free(back);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lm_imatrix *m = size ? read_bytes(data, size) : NULL, *sum;

    if (!m)
        return 0;
    for (size_t i = 0; i < lm_imatrix_count(m); i++)
        require(lm_imatrix_find(m, lm_imatrix_at(m, i)->name) == lm_imatrix_at(m, i), "found by its name");
    round_trip_of(m, false);
    round_trip_of(m, true);
    require(lm_imatrix_new(&sum, 512, NULL) == 0, "memory");
    if (lm_imatrix_merge(sum, m, NULL) == 0)
        require(lm_imatrix_count(sum) == lm_imatrix_count(m), "all of it is added");
    lm_imatrix_free(sum);
    lm_imatrix_free(m);
    return 0;
}
