/* Files that appear whole or not at all.
 *
 * Each is written without a name (O_TMPFILE) or, where the file system cannot,
 * under a hidden one; space is taken before any work; fsync, then the names,
 * then fsync of the folder.  The last file added is the commit record: its
 * name appears after the others are durable.  Work that survives (journal.h)
 * has its files in a folder of its own, and abort leaves them there. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "convert/commit.h"

struct out_file {
    char *name;
    char *hidden; /* NULL: has no name yet */
    int fd;
    bool replaces, visible;
};

struct lm_commit {
    char *dir;
    const char *at, *slash; /* how messages begin a path: "dir", "/"; nothing for the working folder */
    int dirfd;
    bool force, made_dir;
    char *kept;             /* folder of the files that survive; NULL: none does */
    bool naming;            /* all are complete there: some may have their names already */
    struct out_file *files;
    size_t n_files;
};

static int fail_errno(const struct lm_commit *c, const char *name, const char *what, struct lm_err *e)
{
    return lm_err_errno(e, "%s%s%s: %s", c->at, c->slash, name, what);
}

/* ---- folder */

static int open_folder(struct lm_commit *c, struct lm_err *e)
{
    int how = O_RDONLY | O_DIRECTORY | O_CLOEXEC;

    c->dirfd = open(c->dir, how);
    if (c->dirfd < 0 && errno == ENOENT) {
        if (mkdir(c->dir, 0777) < 0)
            return lm_err_errno(e, "%s: cannot make the folder", c->dir);
        c->made_dir = true;
        c->dirfd = open(c->dir, how);
    }
    if (c->dirfd < 0 && errno == ENOTDIR)
        return lm_err_set(e, LM_IO, "%s: not a folder", c->dir);
    if (c->dirfd < 0)
        return lm_err_errno(e, "%s: cannot open the folder", c->dir);
    return 0;
}

int lm_commit_begin(struct lm_commit **out, const char *dir, bool force, struct lm_err *e)
{
    struct lm_commit *c = calloc(1, sizeof *c);

    *out = NULL;
    if (c) {
        c->dirfd = -1;
        c->force = force;
        c->dir = strdup(*dir ? dir : ".");
        for (size_t n = c->dir ? strlen(c->dir) : 0; n > 1 && c->dir[n - 1] == '/'; n--)
            c->dir[n - 1] = 0;
        bool here = c->dir && strcmp(c->dir, ".") == 0;
        c->at = here ? "" : c->dir;
        c->slash = here ? "" : "/";
    }
    if (!c || !c->dir) {
        free(c);
        return lm_err_set(e, LM_NOMEM, "out of memory");
    }
    if (open_folder(c, e)) {
        lm_commit_abort(c);
        return -1;
    }
    *out = c;
    return 0;
}

/* ---- one file */

static int check_destination(const struct lm_commit *c, const char *name, struct stat *old, bool *exists, struct lm_err *e)
{
    *exists = fstatat(c->dirfd, name, old, AT_SYMLINK_NOFOLLOW) == 0;
    if (!*exists)
        return errno == ENOENT ? 0 : fail_errno(c, name, "cannot examine", e);
    if (S_ISDIR(old->st_mode))
        return lm_err_set(e, LM_IO, "%s%s%s: is a folder, a file is to be written there", c->at, c->slash, name);
    if (!S_ISREG(old->st_mode) && !S_ISLNK(old->st_mode))
        return lm_err_set(e, LM_IO, "%s%s%s: is not a regular file (a device, a pipe or a socket) and cannot be "
                          "replaced by one", c->at, c->slash, name);
    if (!c->force)
        return lm_err_set(e, LM_IO, "%s%s%s: exists already; --force replaces it", c->at, c->slash, name);
    return 0;
}

static int open_hidden(struct lm_commit *c, struct out_file *f, struct lm_err *e)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        uint64_t r = 0;
        if (getrandom(&r, sizeof r, 0) < 0)
            return lm_err_errno(e, "no random numbers");
        free(f->hidden);
        if (asprintf(&f->hidden, ".%.200s.%016llx.tmp", f->name, (unsigned long long)r) < 0) {
            f->hidden = NULL;
            return lm_err_set(e, LM_NOMEM, "out of memory");
        }
        f->fd = openat(c->dirfd, f->hidden, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (f->fd >= 0)
            return 0;
        if (errno != EEXIST)
            break;
    }
    int why = errno;
    free(f->hidden);
    f->hidden = NULL;
    errno = why;
    return fail_errno(c, f->name, "cannot write in this folder", e);
}

/* A file without a name gets one through /proc; a bare chroot may lack it. */
static int open_new(struct lm_commit *c, struct out_file *f, struct lm_err *e)
{
    if (access("/proc/self/fd", X_OK) < 0)
        return open_hidden(c, f, e);
    f->fd = openat(c->dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
    if (f->fd >= 0)
        return 0;
    if (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT || errno == EINVAL)
        return open_hidden(c, f, e);
    return fail_errno(c, f->name, "cannot write in this folder", e);
}

/* The i-th file in the folder that survives, as somebody may have begun it. */
static int open_kept(struct lm_commit *c, struct out_file *f, struct lm_err *e)
{
    int how = O_RDWR | O_NOFOLLOW | O_CLOEXEC | (c->naming ? 0 : O_CREAT);

    if (asprintf(&f->hidden, "%s/%zu", c->kept, (size_t)(f - c->files)) < 0) {
        f->hidden = NULL;
        return lm_err_set(e, LM_NOMEM, "out of memory");
    }
    f->fd = openat(c->dirfd, f->hidden, how, 0666);
    if (f->fd < 0 && c->naming && errno == ENOENT) {
        free(f->hidden);
        f->hidden = NULL;
        f->visible = f->replaces = true; /* named before the crash */
        f->fd = openat(c->dirfd, f->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    }
    return f->fd < 0 ? fail_errno(c, f->name, "cannot write in this folder", e) : 0;
}

/* The exact size at once: a full disk is known before any work. */
static int reserve(const struct lm_commit *c, const struct out_file *f, uint64_t n, struct lm_err *e)
{
    struct statvfs s;

    if (n > INT64_MAX)
        return lm_err_set(e, LM_LIMIT, "%s%s%s: %llu bytes are more than a file can have", c->at, c->slash, f->name,
                          (unsigned long long)n);
    if (n == 0 || fallocate(f->fd, 0, 0, (off_t)n) == 0)
        return 0;
    if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG || errno == EIO)
        return lm_err_errno(e, "%s%s%s: no room for %llu bytes", c->at, c->slash, f->name, (unsigned long long)n);
    if (fstatvfs(f->fd, &s) == 0 && (uint64_t)s.f_bavail * s.f_frsize < n)
        return lm_err_set(e, LM_IO, "%s%s%s: %llu bytes are needed, the disk has %llu free", c->at, c->slash, f->name,
                          (unsigned long long)n, (unsigned long long)s.f_bavail * s.f_frsize);
    if (ftruncate(f->fd, (off_t)n) < 0)
        return fail_errno(c, f->name, "cannot set the size", e);
    return 0;
}

int lmc_commit_keep(struct lm_commit *c, const char *folder, bool naming, struct lm_err *e)
{
    c->kept = strdup(folder);
    c->naming = naming;
    return c->kept ? 0 : lm_err_set(e, LM_NOMEM, "out of memory");
}

int lmc_commit_sync(const struct lm_commit *c, struct lm_err *e)
{
    for (size_t i = 0; i < c->n_files; i++)
        if (fsync(c->files[i].fd) < 0)
            return fail_errno(c, c->files[i].name, "cannot be written to the disk", e);
    return 0;
}

int lm_commit_add(struct lm_commit *c, const char *name, uint64_t n_bytes, int *fd, struct lm_err *e)
{
    struct stat old;
    struct out_file *bigger, *f;
    struct stat now;

    if (!*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return lm_err_set(e, LM_USAGE, "\"%s\" cannot be the name of a file", name);
    bigger = reallocarray(c->files, c->n_files + 1, sizeof *bigger);
    if (!bigger)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    c->files = bigger;
    f = &c->files[c->n_files];
    *f = (struct out_file){.fd = -1};
    if (c->naming)
        f->replaces = fstatat(c->dirfd, name, &old, AT_SYMLINK_NOFOLLOW) == 0;
    else if (check_destination(c, name, &old, &f->replaces, e))
        return -1;
    f->name = strdup(name);
    if (!f->name)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    c->n_files++;
    if (c->kept ? open_kept(c, f, e) : open_new(c, f, e))
        return -1;
    if (fstat(f->fd, &now) < 0)
        return fail_errno(c, name, "cannot examine", e);
    if (c->naming && f->hidden && check_destination(c, name, &old, &f->replaces, e))
        return -1;
    if (c->naming && (uint64_t)now.st_size != n_bytes)
        return lm_err_set(e, LM_IO, "%s%s%s: was not finished, and is not what was to be finished: remove the folder %s to "
                          "begin again", c->at, c->slash, name, c->kept);
    if (!c->naming && (!c->kept || (uint64_t)now.st_size != n_bytes) && reserve(c, f, n_bytes, e))
        return -1;
    if (f->replaces && !f->visible && S_ISREG(old.st_mode) && fchmod(f->fd, old.st_mode & 0777) < 0)
        return fail_errno(c, name, "cannot set the permissions", e);
    *fd = f->fd;
    return 0;
}

/* ---- before they have names */

/* Through /proc; a bare chroot may lack it, and then every file has a hidden name. */
static char *path_of_data(const struct lm_commit *c, const struct out_file *f)
{
    char *path = NULL, *real = NULL;
    int rc;

    if (!f->hidden || access("/proc/self/fd", X_OK) == 0)
        rc = asprintf(&path, "/proc/self/fd/%d", f->fd);
    else
        rc = (real = realpath(c->dir, NULL)) ? asprintf(&path, "%s/%s", real, f->hidden) : -1;
    free(real);
    return rc < 0 ? NULL : path;
}

static int link_preview(const struct lm_commit *c, const struct out_file *f, const char *folder, struct lm_err *e)
{
    char *at = NULL, *to = path_of_data(c, f);
    int rc;

    if (!to || asprintf(&at, "%s/%s", folder, f->name) < 0)
        rc = lm_err_set(e, LM_NOMEM, "out of memory");
    else
        rc = symlink(to, at) < 0 ? lm_err_errno(e, "%s: cannot be made", at) : 0;
    free(to);
    free(at);
    return rc;
}

static int link_previews(const struct lm_commit *c, char *folder, struct lm_err *e)
{
    if (!mkdtemp(folder))
        return lm_err_errno(e, "%s: cannot be made", folder);
    for (size_t i = 0; i < c->n_files; i++)
        if (link_preview(c, &c->files[i], folder, e))
            return -1;
    return 0;
}

int lmc_commit_preview(char **path, const struct lm_commit *c, const char *name, struct lm_err *e)
{
    const char *tmp = getenv("TMPDIR");

    if (c->n_files == 1)
        return (*path = path_of_data(c, &c->files[0])) ? 0 : lm_err_set(e, LM_NOMEM, "out of memory");
    if (asprintf(path, "%s/libmodel-XXXXXX%c%s", tmp && *tmp ? tmp : "/tmp", 0, name) < 0) {
        *path = NULL;
        return lm_err_set(e, LM_NOMEM, "out of memory");
    }
    int rc = link_previews(c, *path, e);
    (*path)[strlen(*path)] = '/'; /* folder and name are one path from here on */
    return rc;
}

void lmc_commit_preview_end(const struct lm_commit *c, char *path)
{
    char *slash = path && c->n_files != 1 ? strrchr(path, '/') : NULL, *at;

    if (slash)
        *slash = 0;
    for (size_t i = 0; slash && i < c->n_files; i++)
        if (asprintf(&at, "%s/%s", path, c->files[i].name) >= 0) {
            unlink(at);
            free(at);
        }
    if (slash)
        rmdir(path);
    free(path);
}

/* ---- the names */

static int link_unnamed(struct lm_commit *c, struct out_file *f, const char *as)
{
    char self[64];

    snprintf(self, sizeof self, "/proc/self/fd/%d", f->fd);
    return linkat(AT_FDCWD, self, c->dirfd, as, AT_SYMLINK_FOLLOW);
}

/* A name for the unnamed, so that rename can replace the old file. */
static int give_hidden_name(struct lm_commit *c, struct out_file *f)
{
    uint64_t r = 0;

    if (getrandom(&r, sizeof r, 0) < 0)
        return -1;
    if (asprintf(&f->hidden, ".%.200s.%016llx.tmp", f->name, (unsigned long long)r) < 0) {
        f->hidden = NULL;
        errno = ENOMEM;
        return -1;
    }
    if (link_unnamed(c, f, f->hidden) == 0)
        return 0;
    free(f->hidden);
    f->hidden = NULL;
    return -1;
}

/* Old kernels and some network file systems know no RENAME_NOREPLACE: link
 * refuses an existing name everywhere. */
static int rename_new(struct lm_commit *c, struct out_file *f)
{
    if (renameat2(c->dirfd, f->hidden, c->dirfd, f->name, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    if (linkat(c->dirfd, f->hidden, c->dirfd, f->name, 0) < 0)
        return -1;
    return unlinkat(c->dirfd, f->hidden, 0);
}

static int show(struct lm_commit *c, struct out_file *f, struct lm_err *e)
{
    int rc;

    if (f->visible)
        return 0;
    if (!f->hidden && f->replaces && give_hidden_name(c, f) < 0)
        return fail_errno(c, f->name, "cannot name the finished file", e);
    if (!f->hidden)
        rc = link_unnamed(c, f, f->name);
    else if (f->replaces)
        rc = renameat(c->dirfd, f->hidden, c->dirfd, f->name);
    else
        rc = rename_new(c, f);
    if (rc < 0 && errno == EEXIST)
        return lm_err_set(e, LM_IO, "%s%s%s: appeared while this was running; it was left alone", c->at, c->slash, f->name);
    if (rc < 0)
        return fail_errno(c, f->name, "cannot name the finished file", e);
    free(f->hidden);
    f->hidden = NULL;
    f->visible = true;
    return 0;
}

static int sync_folder(const struct lm_commit *c, struct lm_err *e)
{
    /* Some file systems cannot: the files themselves are safe already. */
    if (fsync(c->dirfd) < 0 && errno != EINVAL && errno != EROFS)
        return lm_err_errno(e, "%s: cannot make the folder durable", c->dir);
    return 0;
}

static int make_durable(struct lm_commit *c, struct lm_err *e)
{
    if (lmc_commit_sync(c, e))
        return -1;
    for (size_t i = 0; i < c->n_files; i++) {
        if (i > 0 && i + 1 == c->n_files && sync_folder(c, e))
            return -1;
        if (show(c, &c->files[i], e))
            return -1;
    }
    return sync_folder(c, e);
}

static void release(struct lm_commit *c)
{
    for (size_t i = 0; i < c->n_files; i++) {
        if (c->files[i].fd >= 0)
            close(c->files[i].fd);
        free(c->files[i].name);
        free(c->files[i].hidden);
    }
    if (c->dirfd >= 0)
        close(c->dirfd);
    free(c->files);
    free(c->kept);
    free(c->dir);
    free(c);
}

void lm_commit_abort(struct lm_commit *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_files; i++) {
        struct out_file *f = &c->files[i];
        if (f->hidden && !c->kept)
            unlinkat(c->dirfd, f->hidden, 0);
        if (f->visible && !f->replaces && !c->kept)
            unlinkat(c->dirfd, f->name, 0);
    }
    if (c->made_dir)
        rmdir(c->dir);
    release(c);
}

int lm_commit_finish(struct lm_commit *c, struct lm_err *e)
{
    int rc = make_durable(c, e);

    if (rc)
        lm_commit_abort(c);
    else
        release(c);
    return rc;
}

int lm_pwrite_all(int fd, const void *data, size_t n, uint64_t offset, struct lm_err *e)
{
    const uint8_t *p = data;

    while (n > 0) {
        ssize_t done = pwrite(fd, p, n, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return lm_err_errno(e, "cannot write");
        if (done == 0)
            return lm_err_set(e, LM_IO, "cannot write: the disk takes no more");
        p += done;
        n -= (size_t)done;
        offset += (uint64_t)done;
    }
    return 0;
}
