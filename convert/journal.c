#include "convert/journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/sum.h"

static const char magic[8] = "lmplan2\n";
enum { PLAN_BYTES = sizeof magic + sizeof(struct lmc_identity), RECORD = 128 };

/* Places of locks in `plan`: shares of [0, SHARES), and one for setting up. */
static const off_t SHARES = (off_t)1 << 40;

struct lmc_journal {
    char *dir, *folder;
    int dirfd, plan, log;
    bool complete, any; /* any: something is recorded, so the folder is worth keeping */
    struct lmc_record *known;
    size_t n_known;
    pthread_mutex_t lock;
    char log_name[32];
};

static int fail_errno(const struct lmc_journal *j, const char *what, struct lm_err *e)
{
    return lm_err_errno(e, "%s/%s: %s", j->dir, j->folder, what);
}

/* ---- records on the disk: 16 fields of 8 bytes, the last the sum of the others */

static void put_f64(uint8_t *p, double v)
{
    uint64_t u;

    memcpy(&u, &v, sizeof u);
    lm_store_u64le(p, u);
}

static double get_f64(const uint8_t *p)
{
    uint64_t u = lm_load_u64le(p);
    double v;

    memcpy(&v, &u, sizeof v);
    return v;
}

static void pack(uint8_t out[RECORD], const struct lmc_record *r)
{
    const struct lmc_tally *t = &r->tally;
    const struct lm_errors *x = &t->errors;
    const uint64_t u[] = {r->item, r->first, r->n, r->sum, t->n_overflow, t->n_flushed, t->n_nan, x->n, x->max_at};
    const double f[] = {x->x2, x->y2, x->xy, x->e2, x->max};

    memset(out, 0, RECORD);
    for (size_t i = 0; i < 9; i++)
        lm_store_u64le(out + 8 * i, u[i]);
    for (size_t i = 0; i < 5; i++)
        put_f64(out + 72 + 8 * i, f[i]);
    lm_store_u64le(out + RECORD - 16, t->source_sum);
    lm_store_u64le(out + RECORD - 8, lmc_sum_of(out, RECORD - 8));
}

/* False: a record that was cut short by a crash. */
static bool unpack(struct lmc_record *r, const uint8_t p[RECORD])
{
    if (lm_load_u64le(p + RECORD - 8) != lmc_sum_of(p, RECORD - 8))
        return false;
    *r = (struct lmc_record){lm_load_u64le(p), lm_load_u64le(p + 8), lm_load_u64le(p + 16), lm_load_u64le(p + 24),
                             {.n_overflow = lm_load_u64le(p + 32), .n_flushed = lm_load_u64le(p + 40),
                              .n_nan = lm_load_u64le(p + 48), .source_sum = lm_load_u64le(p + RECORD - 16),
                              .errors = {.n = lm_load_u64le(p + 56), .max_at = lm_load_u64le(p + 64),
                                         .x2 = get_f64(p + 72), .y2 = get_f64(p + 80), .xy = get_f64(p + 88),
                                         .e2 = get_f64(p + 96), .max = get_f64(p + 104)}}};
    return true;
}

/* ---- reading what others recorded */

static int by_range(const void *a, const void *b)
{
    const struct lmc_record *x = a, *y = b;

    if (x->item != y->item)
        return x->item < y->item ? -1 : 1;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return x->n < y->n ? -1 : x->n > y->n;
}

static int read_log(struct lmc_journal *j, const char *name, struct lm_err *e)
{
    int fd = openat(j->dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    uint8_t buf[RECORD];
    struct stat s;
    int rc = 0;

    if (fd < 0 || fstat(fd, &s) < 0)
        rc = fail_errno(j, "cannot read a journal", e);
    size_t n = rc == 0 ? (size_t)s.st_size / RECORD : 0;
    struct lmc_record *bigger = n ? reallocarray(j->known, j->n_known + n, sizeof *bigger) : NULL;
    if (n && !bigger)
        rc = lmc_nomem(e);
    if (bigger)
        j->known = bigger;
    for (size_t i = 0; rc == 0 && i < n && pread(fd, buf, RECORD, (off_t)(i * RECORD)) == RECORD; i++)
        j->n_known += unpack(&j->known[j->n_known], buf);
    if (fd >= 0)
        close(fd);
    return rc;
}

static bool is_log(const char *name)
{
    return strncmp(name, "journal-", 8) == 0;
}

static DIR *list(const struct lmc_journal *j)
{
    int fd = openat(j->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (!d && fd >= 0)
        close(fd);
    return d;
}

static int read_logs(struct lmc_journal *j, struct lm_err *e)
{
    DIR *d = list(j);
    int rc = d ? 0 : fail_errno(j, "cannot be listed", e);

    for (struct dirent *x; rc == 0 && (x = readdir(d));)
        if (is_log(x->d_name))
            rc = read_log(j, x->d_name, e);
    if (d)
        closedir(d);
    if (j->n_known)
        qsort(j->known, j->n_known, sizeof *j->known, by_range);
    j->any = j->n_known > 0;
    return rc;
}

const struct lmc_record *lmc_journal_find(const struct lmc_journal *j, uint64_t item, uint64_t first, uint64_t n)
{
    struct lmc_record key = {.item = item, .first = first, .n = n};

    return j->n_known ? bsearch(&key, j->known, j->n_known, sizeof key, by_range) : NULL;
}

/* ---- locks */

static int lock_range(int fd, off_t from, off_t n, short type, bool wait)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = from, .l_len = n};
    int rc;

    do
        rc = fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &l);
    while (rc < 0 && errno == EINTR);
    return rc;
}

/* Of SHARES bytes: rounding leaves no byte between neighbours. */
static off_t share_begin(unsigned part, unsigned n_parts)
{
    return SHARES / n_parts * part;
}

static int lock_share(struct lmc_journal *j, unsigned part, unsigned n_parts, struct lm_err *e)
{
    off_t from = n_parts ? share_begin(part - 1, n_parts) : 0, to = n_parts ? share_begin(part, n_parts) : SHARES;

    if (n_parts && part == n_parts)
        to = SHARES;
    if (lock_range(j->plan, from, to - from, F_WRLCK, false) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return lm_err_set(e, LM_IO, "%s/%s: another process is at work on %s; wait until it ends", j->dir, j->folder,
                          n_parts ? "this part" : "this output");
    return fail_errno(j, "cannot be locked", e);
}

/* ---- who this is */

static int compare_identity(const struct lmc_journal *j, const uint8_t *p, const struct lmc_identity *id,
                            struct lm_err *e)
{
    if (memcmp(p, magic, sizeof magic) != 0)
        return lm_err_set(e, LM_MISMATCH, "%s/%s is no unfinished work of this version: remove that folder, or finish it "
                          "with the version that began it", j->dir, j->folder);
    if (memcmp(p + sizeof magic, id->source, sizeof id->source) != 0)
        return lm_err_set(e, LM_MISMATCH, "%s/%s was begun from a source that has changed since: remove that folder to "
                          "begin again", j->dir, j->folder);
    if (memcmp(p + sizeof magic + sizeof id->source, id->request, sizeof id->request) != 0)
        return lm_err_set(e, LM_MISMATCH, "%s/%s was begun with other options: finish it with those, or remove that folder "
                          "to begin again", j->dir, j->folder);
    return 0;
}

static int write_identity(struct lmc_journal *j, const struct lmc_identity *id, struct lm_err *e)
{
    uint8_t plan[PLAN_BYTES];

    memcpy(plan, magic, sizeof magic);
    memcpy(plan + sizeof magic, id, sizeof *id);
    if (lm_pwrite_all(j->plan, plan, sizeof plan, 0, e))
        return lm_err_prefix(e, "%s/%s", j->dir, j->folder);
    return fsync(j->plan) < 0 || (fsync(j->dirfd) < 0 && errno != EINVAL)
               ? fail_errno(j, "cannot be written to the disk", e) : 0;
}

/* The first to come writes it; a crash in between leaves it short, and the next writes it again. */
static int settle_identity(struct lmc_journal *j, const struct lmc_identity *id, struct lm_err *e)
{
    uint8_t plan[PLAN_BYTES];
    struct stat s;

    if (lock_range(j->plan, SHARES + 1, 1, F_WRLCK, true) < 0 || fstat(j->plan, &s) < 0)
        return fail_errno(j, "cannot be locked", e);
    if (s.st_nlink == 0)
        return lm_err_set(e, LM_IO, "%s/%s was finished by another process just now", j->dir, j->folder);
    ssize_t n = pread(j->plan, plan, sizeof plan, 0);
    int rc = n == PLAN_BYTES ? compare_identity(j, plan, id, e) : write_identity(j, id, e);
    lock_range(j->plan, SHARES + 1, 1, F_UNLCK, false);
    return rc;
}

/* ---- opening */

static int make_folder(struct lmc_journal *j, struct lm_err *e)
{
    char *path = NULL;

    if (asprintf(&path, "%s/%s", j->dir, j->folder) < 0)
        return lmc_nomem(e);
    if (mkdir(path, 0777) < 0 && errno != EEXIST) {
        free(path);
        return fail_errno(j, "cannot be made", e);
    }
    j->dirfd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    free(path);
    j->plan = j->dirfd < 0 ? -1 : openat(j->dirfd, "plan", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    return j->plan < 0 ? fail_errno(j, "cannot be opened", e) : 0;
}

static int open_log(struct lmc_journal *j, struct lm_err *e)
{
    uint64_t r = 0;

    if (getrandom(&r, sizeof r, 0) < 0)
        return lm_err_errno(e, "no random numbers");
    snprintf(j->log_name, sizeof j->log_name, "journal-%016llx", (unsigned long long)r);
    j->log = openat(j->dirfd, j->log_name, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0666);
    return j->log < 0 ? fail_errno(j, "cannot be written", e) : 0;
}

int lmc_journal_open(struct lmc_journal **out, const char *dir, const char *name, const struct lmc_identity *id,
                     unsigned part, unsigned n_parts, struct lm_err *e)
{
    struct lmc_journal *j = calloc(1, sizeof *j);

    *out = NULL;
    if (!j)
        return lmc_nomem(e);
    j->dirfd = j->plan = j->log = -1;
    pthread_mutex_init(&j->lock, NULL);
    j->dir = strdup(dir);
    if (!j->dir || asprintf(&j->folder, ".%.200s.unfinished", name) < 0) {
        j->folder = NULL;
        lmc_journal_close(j, false);
        return lmc_nomem(e);
    }
    if (make_folder(j, e) || settle_identity(j, id, e) || lock_share(j, part, n_parts, e) || read_logs(j, e) ||
        open_log(j, e)) {
        lmc_journal_close(j, false);
        return -1;
    }
    j->complete = faccessat(j->dirfd, "complete", F_OK, 0) == 0;
    *out = j;
    return 0;
}

const char *lmc_journal_folder(const struct lmc_journal *j)
{
    return j->folder;
}

/* ---- writing */

int lmc_journal_add(struct lmc_journal *j, const struct lmc_record *r, struct lm_err *e)
{
    uint8_t buf[RECORD];

    pack(buf, r);
    pthread_mutex_lock(&j->lock);
    ssize_t n = write(j->log, buf, sizeof buf); /* one piece: a crash leaves it whole or not at all, or its sum tells */
    j->any = true;
    pthread_mutex_unlock(&j->lock);
    if (n < 0)
        return fail_errno(j, "cannot write the journal", e);
    return n == RECORD ? 0 : lm_err_set(e, LM_IO, "%s/%s: cannot write the journal: the disk takes no more", j->dir, j->folder);
}

bool lmc_journal_has_file(const struct lmc_journal *j, size_t i)
{
    char name[24];

    snprintf(name, sizeof name, "%zu", i);
    return faccessat(j->dirfd, name, F_OK, 0) == 0;
}

void lmc_journal_forget(struct lmc_journal *j)
{
    unlinkat(j->dirfd, "complete", 0);
    j->n_known = 0;
    j->complete = j->any = false;
}

bool lmc_journal_is_complete(const struct lmc_journal *j)
{
    return j->complete;
}

int lmc_journal_complete(struct lmc_journal *j, struct lm_err *e)
{
    int fd = openat(j->dirfd, "complete", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);

    if (fd < 0)
        return fail_errno(j, "cannot be marked as complete", e);
    int rc = fsync(fd) < 0 || (fsync(j->dirfd) < 0 && errno != EINVAL) ? fail_errno(j, "cannot be written to the disk", e) : 0;
    close(fd);
    j->complete = rc == 0;
    return rc;
}

/* ---- the end */

/* Files of ours: numbers, journals, plan, complete. */
static bool is_ours(const char *name)
{
    return is_log(name) || strcmp(name, "plan") == 0 || strcmp(name, "complete") == 0 ||
           name[strspn(name, "0123456789")] == 0;
}

/* The plan last: whoever finds the folder half removed finds a plan. */
static void remove_all(const struct lmc_journal *j)
{
    DIR *d = list(j);
    char *path = NULL;

    for (struct dirent *x; d && (x = readdir(d));)
        if (is_ours(x->d_name) && strcmp(x->d_name, "plan") != 0)
            unlinkat(j->dirfd, x->d_name, 0);
    if (d)
        closedir(d);
    unlinkat(j->dirfd, "plan", 0);
    if (asprintf(&path, "%s/%s", j->dir, j->folder) >= 0) {
        rmdir(path);
        free(path);
    }
}

/* Nobody else may set up, or be at work, in a folder that goes away. */
static bool alone(const struct lmc_journal *j)
{
    return lock_range(j->plan, SHARES + 1, 1, F_WRLCK, true) == 0 && lock_range(j->plan, 0, SHARES, F_WRLCK, false) == 0;
}

bool lmc_journal_close(struct lmc_journal *j, bool finished)
{
    bool stays = false;

    if (!j)
        return false;
    if (j->plan >= 0 && j->log >= 0) {
        stays = !(finished || !j->any) || !alone(j);
        if (!stays)
            remove_all(j);
    }
    if (j->log >= 0)
        close(j->log);
    if (j->plan >= 0)
        close(j->plan);
    if (j->dirfd >= 0)
        close(j->dirfd);
    pthread_mutex_destroy(&j->lock);
    free(j->known);
    free(j->folder);
    free(j->dir);
    free(j);
    return stays;
}
