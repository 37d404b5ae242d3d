/* explain.c - the plan as text: each step with shapes, bytes, FLOPs and the least time it can take.
 *
 * The workload: n_tokens sequences that each decode one token at the same context. A step's bytes
 * are its weights, the KV it reads or writes and its activations, each once. Roofline time is the
 * larger of bytes over bandwidth and FLOPs over peak; where ranks meet, bytes are those that come over
 * the link, and time is what a meeting costs besides. Equal layers in a row are printed once.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/buf.h"
#include "model/plan.h"

enum { TEXT_MAX = 1 << 20 };

/* Device copy bandwidth and dense bf16 matrix peak, as measured on these GPUs; of the link between two
 * of them the rate of a copy, and the time of a sum too small to count (both rows: of two H100). */
static const struct machine {
    const char *name;
    double bytes_per_s, flops_per_s, link_bytes_per_s, meeting_s;
} machines[] = {{"H100", 3.0e12, 798e12, 373e9, 3.4e-6}, {"H200", 4.3e12, 780e12, 373e9, 3.4e-6}};
enum { N_MACHINES = sizeof machines / sizeof *machines };

#define OP_NAME(name, formula) #name,
static const char *const op_names[] = {OPS(OP_NAME)};
#undef OP_NAME
#define OP_FORMULA(name, formula) formula,
static const char *const op_formulas[] = {OPS(OP_FORMULA)};
#undef OP_FORMULA

struct cost {
    double bytes, flops, us[N_MACHINES];
};

struct work {
    const struct plan *p;
    double n_tokens, ctx;
};

static double weight_bytes(const struct weight *w)
{
    double sum = 0.0;
    for (int i = 0; w && i < w->n_parts; i++)
        sum += (double)w->part[i].rows * (double)dtype_row_bytes(w->part[i].type, w->cols);
    return sum;
}

static double act_bytes(const struct work *k, struct act a)
{
    return k->n_tokens * a.cols * (double)dtype_row_bytes(k->p->device->act_type, 1);
}

/* What a rank receives when ranks meet: of a sum, parts of its share and the other shares summed; the
 * logits of the rows it samples; answers. */
static double link_bytes(const struct work *k, const struct step *s)
{
    double n = k->p->n_ranks, others = (n - 1.0) / n;
    switch (s->op) {
    case OP_REDUCE:
        return 2.0 * others * act_bytes(k, s->dst);
    case OP_REDUCE_NORM:
        return 2.0 * others * act_bytes(k, s->src);
    case OP_DEAL:
        return others * k->n_tokens / n * s->dst.cols * (double)sizeof(float);
    case OP_SHARE:
        return others * k->n_tokens * (double)sizeof(int32_t);
    default:
        return 0.0;
    }
}

/* Per token: k and v of one layer. */
static double kv_bytes(const struct work *k)
{
    return 2.0 * k->p->dims[DIM_KV] * (double)dtype_row_bytes(k->p->device->kv_type, 1);
}

/* Of the products in a step: n rows, each seeing so many positions. */
static double product_flops(const struct step *s, double n, double seen)
{
    if ((s->op == OP_LINEAR || s->op == OP_LINEAR_GLU || s->op == OP_LOGITS) && s->w)
        return 2.0 * n * (double)s->w->rows * (double)s->w->cols;
    if (s->op == OP_ATTN) return 4.0 * n * seen * s->lp->n_heads * s->lp->head_dim;
    return 0.0;
}

/* Positions that a token sees (itself included), summed over the tokens [0, to). */
static double seen_until(double to, double window)
{
    double n = window > 0 && window < to ? window : to;
    return n * (n + 1) / 2 + (to - n) * n;
}

double plan_flops(const struct plan *p, uint32_t from, uint32_t to, uint32_t n_logits)
{
    double sum = 0.0, n = (double)to - from;
    for (int32_t i = 0; i < p->n_steps && to > from; i++) {
        const struct step *s = &p->steps[i];
        double seen = (seen_until(to, s->lp->window) - seen_until(from, s->lp->window)) / n;
        sum += product_flops(s, s->op == OP_LOGITS ? n_logits : n, seen);
    }
    return sum;
}

static struct cost step_cost(const struct work *k, const struct step *s)
{
    double t = k->n_tokens, seen = s->lp->window && s->lp->window < k->ctx ? s->lp->window : k->ctx;
    double in = act_bytes(k, s->src), out = act_bytes(k, s->dst);
    struct cost c = {.bytes = weight_bytes(s->w) + weight_bytes(s->bias) + in + out};
    switch (s->op) {
    case OP_EMBED:
        c.bytes = (s->w ? t * weight_bytes(s->w) / (double)s->w->rows : 0.0) + out;
        break;
    case OP_LINEAR:
    case OP_LOGITS:
        c.flops = product_flops(s, t, seen);
        break;
    case OP_ATTN:
        c.flops = product_flops(s, t, seen);
        c.bytes += t * seen * kv_bytes(k);
        break;
    case OP_ROPE_KV:
        c.bytes += out + t * kv_bytes(k);
        c.flops = 3.0 * t * s->dst.cols;
        break;
    case OP_ADD:
        c.bytes += out;
        c.flops = t * s->dst.cols;
        break;
    case OP_LINEAR_GLU:
        c.flops = product_flops(s, t, seen) + 8.0 * t * s->dst.cols;
        break;
    case OP_REDUCE:
    case OP_REDUCE_NORM:
    case OP_DEAL:
    case OP_SHARE:
        c.bytes = link_bytes(k, s);
        break;
    case OP_ADD_NORM:
        c.bytes += 2.0 * act_bytes(k, s->src2);
        c.flops = 5.0 * t * s->dst.cols;
        break;
    case OP_NORM:
        c.flops = 4.0 * t * s->dst.cols;
        break;
    case OP_GLU:
        c.flops = 8.0 * t * s->dst.cols;
        break;
    case OP_SAMPLE:
        c.flops = t * s->src.cols;
        break;
    case OP_POOL:
    case OP_GATHER:
    case OP_COUNT:
        break;
    }
    for (int i = 0; i < N_MACHINES; i++) {
        const struct machine *m = &machines[i];
        double link = link_bytes(k, s), memory = c.bytes / m->bytes_per_s,
               compute = c.flops / m->flops_per_s;
        c.us[i] = 1e6 * (memory > compute ? memory : compute);
        if (link > 0.0) c.us[i] = 1e6 * (m->meeting_s + link / m->link_bytes_per_s);
    }
    return c;
}

static void add_cost(struct cost *sum, const struct cost *c)
{
    sum->bytes += c->bytes;
    sum->flops += c->flops;
    for (int i = 0; i < N_MACHINES; i++) sum->us[i] += c->us[i];
}

/* 1234567 as "1.23 M". */
static const char *short_number(double x, char out[16])
{
    static const char *const units[] = {"", " k", " M", " G", " T", " P"};
    int i = 0;
    while (x >= 999.5 && i < 5) {
        x /= 1000.0;
        i++;
    }
    if (i == 0)
        snprintf(out, 16, "%.0f", x);
    else
        snprintf(out, 16, "%.3g%s", x, units[i]);
    return out;
}

static void put_step(struct buf *b, const struct step *s, const struct cost *c)
{
    char shape[96] = "", bytes[16], flops[16];
    const char *name = s->w ? s->w->name : "", *dot = strrchr(name, '.');
    if (s->w && s->w->rows > 1)
        snprintf(shape, sizeof shape, "%s [%" PRId64 ", %" PRId64 "]%s",
                 dtype_info[s->w->part[0].type].name, s->w->rows, s->w->cols,
                 s->bias && s->op == OP_LINEAR ? " + bias" : "");
    else if (s->op == OP_ATTN && s->lp->window)
        snprintf(shape, sizeof shape, "window %d", s->lp->window);
    buf_printf(b, "  %-9s %-11s %-28s %5d -> %-7d %9s %9s", op_names[s->op], dot ? dot + 1 : name,
               shape, s->src.cols, s->dst.cols, short_number(c->bytes, bytes),
               short_number(c->flops, flops));
    for (int i = 0; i < N_MACHINES; i++) buf_printf(b, " %9.3f", c->us[i]);
    buf_putc(b, '\n');
}

/* The steps of one layer (or of what is before or after the layers) as lines. */
static struct cost put_layer(struct buf *b, const struct work *k, int32_t first, int32_t end)
{
    struct cost sum = {0};
    for (int32_t i = first; i < end; i++) {
        struct cost c = step_cost(k, &k->p->steps[i]);
        put_step(b, &k->p->steps[i], &c);
        add_cost(&sum, &c);
    }
    return sum;
}

static void put_head(FILE *out, const struct plan *p, int32_t n_tokens, int32_t ctx)
{
    const struct model_config *c = &p->config;
    char a[16], b[16], kv[16];
    double bytes = 0.0;
    for (int32_t i = 0; i < p->n_weights; i++)
        if (!p->weights[i].same) bytes += weight_bytes(&p->weights[i].weight);
    fprintf(out,
            "model %s: %d layers, hidden %d, feed-forward %d, %d heads (%d key-value) of %d, "
            "vocabulary %d\n",
            c->family->model_type, c->n_layers, c->hidden, c->ffn, c->n_heads, c->n_kv_heads,
            c->head_dim, c->n_vocab);
    fprintf(out, "%s parameters%s in %sB; KV %sB a token; up to %d positions\n",
            short_number((double)plan_parameters(p), a),
            p->n_ranks > 1 ? ", of them on each rank" : "", short_number(bytes, b),
            short_number((double)plan_page_bytes(p, 1), kv), c->max_positions);
    if (p->n_ranks > 1)
        fprintf(out, "rank %d of %d: heads %d (%d key-value), feed-forward %d, words %d to %d\n",
                p->rank, p->n_ranks, p->dims[DIM_Q] / c->head_dim, p->dims[DIM_KV] / c->head_dim,
                p->dims[DIM_FFN], p->first[DIM_VOCAB],
                p->first[DIM_VOCAB] + p->dims[DIM_VOCAB] - 1);
    fprintf(out,
            "step of %d sequences, one token each at context %d, planned for the %s device\n\n",
            n_tokens, ctx, p->device->name);
    fprintf(out, "  %-9s %-11s %-28s %5s    %-7s %9s %9s", "op", "weight", "", "in", "out", "bytes",
            "FLOPs");
    for (int i = 0; i < N_MACHINES; i++) fprintf(out, "   %s us", machines[i].name);
    fputc('\n', out);
}

static void put_title(FILE *out, int32_t first, int32_t n)
{
    if (first < 0)
        fprintf(out, "outside the layers\n");
    else if (n == 1)
        fprintf(out, "layer %d\n", first);
    else
        fprintf(out, "layers %d to %d, each\n", first, first + n - 1);
}

static void put_tail(FILE *out, const struct plan *p, const struct cost *sum)
{
    char bytes[16], flops[16];
    bool seen[OP_COUNT] = {0};
    fprintf(out, "\ntotal %sB, %sFLOP", short_number(sum->bytes, bytes),
            short_number(sum->flops, flops));
    for (int i = 0; i < N_MACHINES; i++)
        fprintf(out, "; %s at least %.1f us", machines[i].name, sum->us[i]);
    fprintf(out, "\n\n");
    for (int32_t i = 0; i < p->n_steps; i++) seen[p->steps[i].op] = true;
    for (int i = 0; i < OP_COUNT; i++)
        if (seen[i]) fprintf(out, "%-9s %s\n", op_names[i], op_formulas[i]);
}

void plan_explain(const struct plan *p, int32_t n_tokens, int32_t ctx, FILE *out)
{
    struct work k = {p, n_tokens, ctx};
    struct cost sum = {0};
    struct buf held = buf_make(TEXT_MAX); /* of the run of equal layers that ends before `first` */
    int32_t run = 0, run_layer = -1;
    put_head(out, p, n_tokens, ctx);
    for (int32_t first = 0, end; first < p->n_steps; first = end) {
        struct buf text = buf_make(TEXT_MAX);
        int32_t layer = p->steps[first].layer;
        for (end = first; end < p->n_steps && p->steps[end].layer == layer; end++) continue;
        struct cost c = put_layer(&text, &k, first, end);
        add_cost(&sum, &c);
        if (run && layer >= 0 && run_layer >= 0 && str_eq(buf_str(&text), buf_str(&held))) {
            run++;
            buf_free(&text);
            continue;
        }
        if (run) {
            put_title(out, run_layer, run);
            fputs(buf_cstr(&held), out);
        }
        buf_free(&held);
        held = text;
        run = 1;
        run_layer = layer;
    }
    put_title(out, run_layer, run);
    fputs(buf_cstr(&held), out);
    buf_free(&held);
    put_tail(out, p, &sum);
}
