/* Hash table from text to piece id, faster to build than lm_map because it is
 * sized once. Seeded at random: the texts come from files. */
#ifndef LIBMODEL_TOK_TEXTS_H
#define LIBMODEL_TOK_TEXTS_H

#include "libmodel/bytes.h"

#define LMI_NONE UINT32_MAX

struct lmi_texts {
    struct lmi_text_slot {
        const uint8_t *data; /* borrowed; NULL: free */
        uint32_t size, id;
    } *slots;
    size_t mask;
    uint64_t seed;
};

/* Room for n texts; false when out of memory. */
bool lmi_texts_init(struct lmi_texts *t, size_t n);
void lmi_texts_free(struct lmi_texts *t);
/* The first id put for a text stays; false if one was there. At most n puts. */
bool lmi_texts_put(struct lmi_texts *t, struct lm_span text, uint32_t id);
/* LMI_NONE when absent. */
uint32_t lmi_texts_get(const struct lmi_texts *t, struct lm_span text);
/* The same in two steps; a text's slot is looked for from hash & mask on. */
uint64_t lmi_texts_hash(const struct lmi_texts *t, struct lm_span text);
bool lmi_texts_put_hashed(struct lmi_texts *t, struct lm_span text, uint32_t id, uint64_t hash);
uint32_t lmi_texts_get_hashed(const struct lmi_texts *t, struct lm_span text, uint64_t hash);

/* A random number that a file's author cannot know. */
uint64_t lmi_random_seed(void);

#endif
