/* oracle.h - a request of the simulation and what must come of it, computed alone at submit. */
#ifndef SIM_ORACLE_H
#define SIM_ORACLE_H

#include "world.h"

enum { LEN_MAX = 512 };

struct oracle {
    struct sl_request rq;   /* prompt points to token, lists to the arrays below */
    int32_t token[LEN_MAX]; /* prompt, then the output */
    uint64_t h[LEN_MAX];    /* KV of each position */
    int32_t n_output;       /* how many tokens come */
    enum sl_finish reason;  /* how it ends if nobody interferes */
    int32_t end_token;      /* of its DONE */
    uint64_t pool_sum;      /* over n_pooled rows: what its vector is made of */
    int32_t n_pooled;
    int32_t nan_at; /* output index whose logits are not finite; -1: none */
    int32_t n_vocab;
    int grammar; /* which of the simulation's, or -1 */
    bool fits;   /* could it run alone? Else it must be refused */
    int32_t stop_ids[3], allowed[4], close[3];
    struct sl_bias bias[2];
};

/* The past of an episode, for prompts that go on where an earlier request ended. */
struct transcripts {
    int32_t token[8][LEN_MAX], n[8];
    uint64_t salt[8][2];
};

void oracle_draw(struct oracle *o, const struct sim_plan *p, uint64_t seed,
                 struct transcripts *past);
/* The grammars of a simulation, compiled once for each vocabulary. NULL: none of that number. */
enum { SIM_GRAMMARS = 4 };
struct grammar *sim_grammar(int32_t n_vocab, int which);

/* What the row at pos says, before sampling. */
uint64_t oracle_logits(const struct oracle *o, int32_t pos);

#endif
