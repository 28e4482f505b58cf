/* .NAME.edit: "lmedit1\n", u64 size of the file it belongs to, u64 bytes of the
 * head, u64 sum of the head, the head. It is on the disk before the first byte
 * of the file changes, and goes when the file is on the disk. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/edit.h"
#include "convert/plan.h"
#include "convert/stream.h"

static const char magic[8] = "lmedit1\n";
enum { FRONT = 32 };

static char *hidden_name(const char *path)
{
    const char *base = lmc_base_name(path);
    char *name = NULL;

    return asprintf(&name, "%.*s.%.200s.edit", (int)(base - path), path, base) < 0 ? NULL : name;
}

static int sync_folder_of(const char *path)
{
    const char *base = lmc_base_name(path);
    char *dir = base == path ? strdup(".") : strndup(path, (size_t)(base - path));
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1, rc = fd < 0 ? -1 : fsync(fd);

    if (fd >= 0)
        close(fd);
    free(dir);
    return rc < 0 && errno != EINVAL ? -1 : 0;
}

static int write_hidden(const char *hidden, const void *head, size_t n, uint64_t size, struct lm_err *e)
{
    int fd = open(hidden, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    uint8_t front[FRONT];

    if (fd < 0)
        return lm_err_errno(e, "%s: cannot be written", hidden);
    memcpy(front, magic, sizeof magic);
    lm_store_u64le(front + 8, size);
    lm_store_u64le(front + 16, n);
    lm_store_u64le(front + 24, lmc_sum_of(head, n));
    int rc = lm_pwrite_all(fd, head, n, FRONT, e) || lm_pwrite_all(fd, front, FRONT, 0, e) ? -1 : 0;
    if (rc == 0 && (fsync(fd) < 0 || sync_folder_of(hidden) < 0))
        rc = lm_err_errno(e, "cannot be written to the disk");
    close(fd);
    if (rc) {
        unlink(hidden);
        return lm_err_prefix(e, "%s", hidden);
    }
    return 0;
}

static int overwrite(const char *path, const void *head, size_t n, struct lm_err *e)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return lm_err_errno(e, "%s: cannot be changed", path);
    int rc = lm_pwrite_all(fd, head, n, 0, e);
    if (rc == 0 && fsync(fd) < 0)
        rc = lm_err_errno(e, "cannot be written to the disk");
    close(fd);
    return rc ? lm_err_prefix(e, "%s", path) : 0;
}

int lmc_place_head(const char *path, const void *head, size_t n, struct lm_err *e)
{
    char *hidden = hidden_name(path);
    struct stat s;
    int rc = hidden ? 0 : lmc_nomem(e);

    if (rc == 0 && (stat(path, &s) < 0 || access(path, W_OK) < 0))
        rc = lm_err_errno(e, "%s: cannot be changed", path);
    if (rc == 0)
        rc = write_hidden(hidden, head, n, (uint64_t)s.st_size, e);
    if (rc == 0)
        rc = overwrite(path, head, n, e); /* on failure the hidden file stays: it is what makes it good */
    if (rc == 0)
        unlink(hidden);
    free(hidden);
    return rc;
}

/* 1 a whole head for a file of this size, 0 not, -1 cannot be read. */
static int read_hidden(uint8_t **head, size_t *n, int fd, uint64_t size, struct lm_err *e)
{
    uint8_t front[FRONT];
    struct stat s;

    if (fstat(fd, &s) < 0 || s.st_size < FRONT)
        return 0;
    if (lmc_pread_all(fd, front, FRONT, 0, e))
        return -1;
    *n = (size_t)lm_load_u64le(front + 16);
    if (memcmp(front, magic, sizeof magic) != 0 || lm_load_u64le(front + 8) != size || *n != (uint64_t)s.st_size - FRONT ||
        *n > size)
        return 0;
    *head = malloc(*n + 1);
    if (!*head)
        return lmc_nomem(e);
    if (lmc_pread_all(fd, *head, *n, FRONT, e))
        return -1;
    return lmc_sum_of(*head, *n) == lm_load_u64le(front + 24);
}

static int recover(const char *path, const char *hidden, int fd, struct lm_err *e)
{
    uint8_t *head = NULL;
    struct stat s;
    size_t n = 0;
    int rc = stat(path, &s) < 0 ? lm_err_errno(e, "%s: cannot be examined", path)
                                : read_hidden(&head, &n, fd, (uint64_t)s.st_size, e);

    if (rc == 1)
        rc = overwrite(path, head, n, e);
    if (rc == 0) /* one that is not whole: the file was not touched yet */
        unlink(hidden);
    free(head);
    return rc;
}

static int recover_one(const char *path, struct lm_err *e)
{
    char *hidden = hidden_name(path);
    int fd = hidden ? open(hidden, O_RDONLY | O_NOFOLLOW | O_CLOEXEC) : -1;
    int rc = hidden ? 0 : lmc_nomem(e);

    if (fd >= 0) {
        rc = recover(path, hidden, fd, e);
        close(fd);
    }
    free(hidden);
    return rc;
}

/* Is a file of this name in the folder of path what path means: itself, one of its set, any of a folder? */
static bool is_meant(const char *name, size_t n, const char *base, bool folder)
{
    const char *of = strstr(base, "-of-");
    size_t same = of && of - base > 5 ? (size_t)(of - base) - 5 : 0; /* up to the number of the part */

    return folder || (strlen(base) == n && memcmp(base, name, n) == 0) ||
           (same > 0 && n == strlen(base) && memcmp(name, base, same) == 0);
}

static int recover_in(const char *dir, const char *base, bool folder, struct lm_err *e)
{
    DIR *d = opendir(dir);
    int rc = 0;

    for (struct dirent *x; d && rc == 0 && (x = readdir(d));) {
        size_t n = strlen(x->d_name);
        char *path = NULL;
        if (n < 7 || x->d_name[0] != '.' || strcmp(x->d_name + n - 5, ".edit") != 0 ||
            !is_meant(x->d_name + 1, n - 6, base, folder))
            continue;
        if (asprintf(&path, "%s/%.*s", dir, (int)(n - 6), x->d_name + 1) < 0)
            rc = lmc_nomem(e);
        else
            rc = recover_one(path, e);
        free(path);
    }
    if (d)
        closedir(d);
    return rc;
}

int lmc_place_recover(const char *path, struct lm_err *e)
{
    const char *base = lmc_base_name(path);
    char *dir = base == path ? strdup(".") : strndup(path, (size_t)(base - path));
    struct stat s;
    bool folder = stat(path, &s) == 0 && S_ISDIR(s.st_mode);
    int rc = dir ? recover_in(folder ? path : dir, base, folder, e) : lmc_nomem(e);

    free(dir);
    return rc;
}
