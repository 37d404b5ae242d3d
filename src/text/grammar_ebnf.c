#include "text/grammar_impl.h"
int ebnf_compile(struct grammar *g, struct str source, part_id *out, struct sl_error *e)
{
    (void)g,(void)source,(void)out;
    return sl_fail(e, SL_ENOSYS, "not yet");
}
