/* What runs need of commit.c beside convert.h.  Private to convert/. */
#ifndef CONVERT_COMMIT_H
#define CONVERT_COMMIT_H

#include "convert/convert.h"

/* Before the first lm_commit_add: files lie in this folder (in that of the
 * commit) as 0, 1, 2 ... in the order of adding; those there already, of the
 * same size, are taken over; an abort leaves all. naming: everything is
 * complete there, and some files may have left it for their names. */
int lmc_commit_keep(struct lm_commit *c, const char *folder, bool naming, struct lm_err *e);
/* Every file to the disk. */
int lmc_commit_sync(const struct lm_commit *c, struct lm_err *e);
/* A path by which a file called `name` can be opened before it has that name,
 * and the others beside it: one file by its descriptor, several by links to
 * theirs in a temporary folder. malloc'd. */
int lmc_commit_preview(char **path, const struct lm_commit *c, const char *name, struct lm_err *e);
void lmc_commit_preview_end(const struct lm_commit *c, char *path); /* removes and frees it; NULL is fine */

#endif
