/* Work that survives: what is done of an output, so that a killed conversion
 * goes on where it stopped and several processes can share one.  Private to
 * convert/.
 *
 * Beside the destination NAME lies a hidden folder .NAME.unfinished:
 *
 *   plan            who this is: magic, digest of the source, digest of the
 *                   request (everything that decides a byte of the output)
 *   0, 1, 2 ...     the output's files, full size, under no name of theirs yet
 *   journal-HEX     one a process: a record of every range that it finished,
 *                   with the sum of the range's bytes
 *   complete        all ranges are there and on the disk; only names are missing
 *
 * A range is believed only when its bytes still have their sum, so nothing
 * depends on the order in which the disk got data and records.  Processes keep
 * apart by locks on ranges of `plan`, which end with the process. */
#ifndef CONVERT_JOURNAL_H
#define CONVERT_JOURNAL_H

#include "convert/plan.h"
#include "convert/stream.h"

struct lmc_identity { uint8_t source[32], request[32]; };
/* layouts: one a part of the plan. Reads samples of the source. */
int lmc_identify(struct lmc_identity *id, const struct lm_plan *p, const struct lm_layout *layouts, struct lm_err *e);

struct lmc_record {
    uint64_t item, first, n; /* elements [first, first + n) of an item */
    uint64_t sum;            /* lmc_sum_of their bytes in the output */
    struct lmc_tally tally;  /* what was counted while making them */
};

struct lmc_journal;
/* dir: of the output, exists. part of n_parts (from 1): the share that is
 * locked, so that nobody else works on it; n_parts 0: all. Refuses (LM_MISMATCH)
 * a folder that belongs to another source or request, and (LM_IO) a share that
 * another process has. */
int lmc_journal_open(struct lmc_journal **out, const char *dir, const char *name, const struct lmc_identity *id,
                     unsigned part, unsigned n_parts, struct lm_err *e);
const char *lmc_journal_folder(const struct lmc_journal *j); /* its name in dir */
/* What any process had recorded when the journal was opened; NULL: nothing. */
const struct lmc_record *lmc_journal_find(const struct lmc_journal *j, uint64_t item, uint64_t first, uint64_t n);
int lmc_journal_add(struct lmc_journal *j, const struct lmc_record *r, struct lm_err *e); /* any thread */
/* i: the number of a file of the output. */
bool lmc_journal_has_file(const struct lmc_journal *j, size_t i);
/* Begins again: nothing is complete or recorded. */
void lmc_journal_forget(struct lmc_journal *j);
bool lmc_journal_is_complete(const struct lmc_journal *j);
int lmc_journal_complete(struct lmc_journal *j, struct lm_err *e); /* data are durable: says so, durably */
/* Removes the folder when the output stands under its name (finished) or when
 * it holds no range and nobody else works in it. NULL is fine. True: it stays. */
bool lmc_journal_close(struct lmc_journal *j, bool finished);

#endif
