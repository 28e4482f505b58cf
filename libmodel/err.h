/* Errors: every function that can fail returns 0 or -1 and fills a struct
 * lm_err that its caller owns.  Each level prepends only what it knows (the
 * file, the tensor, the byte); only cmd/ prints. */
#ifndef LIBMODEL_ERR_H
#define LIBMODEL_ERR_H

#ifdef __cplusplus
extern "C" {
#endif

enum lm_code {
    LM_OK = 0,
    LM_USAGE,       /* the caller asked for something that makes no sense */
    LM_IO,          /* the operating system said no (open, read, write, disk full) */
    LM_MALFORMED,   /* the file contradicts its format */
    LM_UNSUPPORTED, /* the file is sound, we do not handle it; the text says what to do */
    LM_MISMATCH,    /* two things that must agree do not (shape against config, A against B) */
    LM_NOMEM,
    LM_LIMIT,       /* sound but beyond a stated limit */
    LM_INTERRUPTED, /* a signal asked us to stop; nothing was left behind */
    LM_MISSING      /* a file, tensor, key or plugin that is needed is not there */
};

struct lm_err {
    enum lm_code code;
    char text[1200]; /* one sentence, valid UTF-8, control bytes escaped, no newline at the end */
};

/* Sets code and text, returns -1.  e may be NULL (then only the -1 remains).
 * Bytes that are not printable UTF-8 (names come from files) are escaped as
 * \xNN, so the text is always safe to show on a terminal. */
int lm_err_set(struct lm_err *e, enum lm_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* As lm_err_set with LM_IO and ": " strerror(errno) appended. */
int lm_err_errno(struct lm_err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "context: " before the text already there, keeps the code, returns -1. */
int lm_err_prefix(struct lm_err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif
#endif
