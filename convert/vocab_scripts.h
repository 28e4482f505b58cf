/* What kind of text a piece is: by script of its letters, or what else it holds. */
#ifndef CONVERT_VOCAB_SCRIPTS_H
#define CONVERT_VOCAB_SCRIPTS_H

#include "libmodel/bytes.h"
#include "libmodel/err.h"

enum {
    LMC_PARTIAL, LMC_MIXED, LMC_DIGITS, LMC_SPACES, LMC_SIGNS, LMC_OTHER, LMC_FIRST_SCRIPT,
    LMC_MOST_SCRIPTS = 256
};

struct lmc_scripts;
int lmc_scripts_new(struct lmc_scripts **out, struct lm_err *e);
void lmc_scripts_free(struct lmc_scripts *s);
/* One of the above, or LMC_FIRST_SCRIPT and up. */
unsigned lmc_script_of_text(struct lmc_scripts *s, struct lm_span text);
const char *lmc_script_name(unsigned script);

#endif
