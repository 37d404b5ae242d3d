/* ops.h - the op list: what a plan is made of. One row an op; a device offers a function for each
 * it has.
 *
 * t runs over the step's tokens, i over wanted logit rows. Activation slots are [max tokens, cols]
 * in the device's activation type; logits are f32. ADD_NORM may have dst and src in one slot. C17
 * and C++17.
 */
#ifndef BACKEND_OPS_H
#define BACKEND_OPS_H

/*    op          formula, for explain                                                        */
// clang-format off
#define OPS(X)                                                                                    \
    X(EMBED,      "dst[t] = w[token[t]]")                                                         \
    X(NORM,       "dst[t] = src[t] / rms(src[t]) * w")                                            \
    X(LINEAR,     "dst[t] = src[t] . w^T + bias")                                                 \
    X(ROPE_KV,    "norm (w, bias), rotate q and k of dst[t]; write k, v to their page")           \
    X(ATTN,       "dst[t] = softmax(q . K^T * scale) . V over the sequence's pages")              \
    X(GLU,        "dst[t] = act(src[t][:n]) * src[t][n:]")                                        \
    X(ADD,        "dst[t] += src[t]")                                                             \
    X(ADD_NORM,   "src2[t] += src[t]; dst[t] = norm(src2[t]) * w")                                \
    X(LINEAR_GLU, "dst[t] = glu(src[t] . w^T + bias), through src2 or not")                       \
    X(REDUCE,     "dst[t] = sum over ranks of dst[t], in their order")                            \
    X(REDUCE_NORM, "src[t] = its sum over ranks; src2[t] += src[t]; dst[t] = norm(src2[t]) * w")  \
    X(POOL,       "mean of src[t] over a sequence's rows, where it is asked for")                 \
    X(GATHER,     "dst[i] = src[logit_row[i]]")                                                   \
    X(LOGITS,     "dst[i] = src[i] . w^T")                                                        \
    X(DEAL,       "dst[i] = the row of all ranks' src, for the rows that this rank samples")      \
    X(SAMPLE,     "token[i], logprobs[i] from src[i]")                                            \
    X(SHARE,      "token[i], logprobs[i] of the rows that other ranks sampled")
// clang-format on

#define OPS_ENUM(name, formula) OP_##name,
enum op { OPS(OPS_ENUM) OP_COUNT };
#undef OPS_ENUM

#endif
