/* cpu_group.h - how ranks of the cpu device meet; see struct device in backend.h for the calls.
 */
#ifndef BACKEND_CPU_GROUP_H
#define BACKEND_CPU_GROUP_H

#include "backend/backend.h"

enum { GROUP_RANKS_MAX = 64 };
enum shown { SHOWN_SUM, SHOWN_LOGITS, SHOWN_ANSWERS, SHOWN_KINDS };

int cpu_group_open(struct group **out, int32_t n_ranks, struct sl_error *e);
void cpu_group_close(struct group *g);
void cpu_group_abort(struct group *g);
uint64_t cpu_group_beat(const struct group *g);

/* The ops of several ranks. */
int cpu_reduce(struct dev *d, const struct batch *b, const struct step *s);
int cpu_deal(struct dev *d, const struct batch *b, const struct step *s);
int cpu_share(struct dev *d, const struct batch *b, const struct step *s);

#endif
