/* loader.c - opens the model on a thread of its own, while the loop already answers /health.
 *
 * The thread fills struct load_result and wakes the loop; the io thread takes it over, fills the
 * API context and prints the banner. Progress goes to stderr: a bar on a terminal, else a line for
 * every tenth.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "api/grammar_cache.h"
#include "base/log.h"
#include "server/serve.h"
#include "server/sha256.h"

enum { BAR = 30 };
enum { GRAMMAR_CACHE_BYTES = 256 << 20 };

struct progress { /* loader thread */
    uint64_t start_us, drawn_us;
    int tenth;
    bool is_terminal;
};

static void draw(struct progress *p, const char *what, uint64_t done, uint64_t total)
{
    enum { REDRAW_US = 100000 };
    uint64_t now = server_now_us();
    double share = total ? (double)done / (double)total : 1;
    if (p->is_terminal && (now - p->drawn_us > REDRAW_US || done == total)) {
        char bar[BAR + 1];
        int full = (int)(share * BAR);
        for (int i = 0; i < BAR; i++) bar[i] = i < full ? '#' : ' ';
        bar[BAR] = '\0';
        double seconds = (double)(now - p->start_us) * 1e-6 + 1e-9;
        fprintf(stderr, "\r%-8s [%s] %3.0f %%  %.1f/%.1f GB  %.1f GB/s%s", what, bar, share * 100,
                (double)done * 1e-9, (double)total * 1e-9, (double)done * 1e-9 / seconds,
                done == total ? "\n" : "");
        p->drawn_us = now;
    } else if (!p->is_terminal && (int)(share * 10) > p->tenth) {
        p->tenth = (int)(share * 10);
        log_info("load", "%s %d %% of %.1f GB", what, p->tenth * 10, (double)total * 1e-9);
    }
}

static void on_progress(void *arg, const char *what, uint64_t done, uint64_t total)
{
    draw(arg, what, done, total);
}

static void on_engine_wake(void *arg)
{
    uv_async_send(arg);
}

static int open_engine(struct server *s, struct load_result *l, struct progress *p,
                       struct sl_error *e)
{
    struct sl_options q = opts_engine(s->o);
    q.n_vocab = l->text ? (int32_t)tokenizer_n_vocab(l->text->tok) : 0; /* only sim asks */
    q.progress = on_progress;
    q.progress_arg = p;
    q.wake = on_engine_wake;
    q.wake_arg = &s->wake;
    return sl_open(&l->engine, &q, e);
}

/* The tokenizer as the grammars see it. */
struct vocab_source {
    const struct tokenizer *tok;
    struct buf token;
};

static struct str token_bytes(void *arg, int32_t id)
{
    struct vocab_source *v = arg;
    v->token.n = 0;
    tokenizer_token_bytes(v->tok, id, &v->token);
    return buf_str(&v->token);
}

static bool token_is_special(void *arg, int32_t id)
{
    return tokenizer_is_special(((struct vocab_source *)arg)->tok, id);
}

static int open_vocab(const struct model_text *text, size_t n_max, struct grammar_vocab **out,
                      struct sl_error *e)
{
    struct vocab_source v = {text->tok, buf_make(1 << 20)};
    size_t n = tokenizer_n_vocab(text->tok);
    const struct grammar_vocab_desc d = {.n_vocab = n < n_max ? n : n_max,
                                         .bytes = token_bytes,
                                         .is_special = token_is_special,
                                         .arg = &v,
                                         .eos = text->eos,
                                         .n_eos = (size_t)text->n_eos};
    int code = grammar_vocab_new(out, &d, e);
    buf_free(&v.token);
    return code;
}

/* A tokenizer of 128 thousand tokens takes as long to read as a GPU to open: both at once. The
 * grammars' tables of it come with it. */
struct text_job {
    const struct options *o;
    struct model_text *text;
    struct grammar_vocab *vocab;
    struct api_formats formats;
    struct sl_error err;
    int code;
};

static void *open_text(void *arg)
{
    struct text_job *j = arg;
    bool is_dummy = strcmp(j->o->load_format, "dummy") == 0;
    j->code = (is_dummy ? model_text_open_dummy : model_text_open)(&j->text, j->o->model,
                                                                   j->o->chat_template, &j->err);
    const char *calls = j->o->enable_auto_tool_choice ? j->o->tool_call_parser : "none";
    if (j->code == 0)
        j->code = api_find_formats(&j->formats, j->text, calls, j->o->reasoning_parser, &j->err);
    if (j->code == 0) j->code = open_vocab(j->text, SIZE_MAX, &j->vocab, &j->err);
    return NULL;
}

static int load(struct server *s, struct load_result *l, struct progress *p)
{
    struct text_job j = {.o = s->o};
    struct sl_error engine_err = {0};
    pthread_t thread;
    bool is_apart = strcmp(s->o->device, "sim") != 0 && /* its vocabulary is the tokenizer's */
                    pthread_create(&thread, NULL, open_text, &j) == 0;
    if (!is_apart) open_text(&j), l->text = j.text;
    int code = is_apart || j.code == 0 ? open_engine(s, l, p, &engine_err) : 0;
    if (is_apart) pthread_join(thread, NULL);
    l->text = j.text;
    l->vocab = j.vocab;
    l->formats = j.formats;
    l->err = j.code < 0 ? j.err : engine_err;
    if (j.code < 0 || code < 0) return j.code < 0 ? j.code : code;
    size_t n_model = (size_t)sl_get_info(l->engine)->n_vocab;
    if (grammar_vocab_words(l->vocab) <= (n_model + 31) / 32) return 0;
    grammar_vocab_unref(l->vocab); /* a tokenizer with more tokens than the model has logits */
    return open_vocab(l->text, n_model, &l->vocab, &l->err);
}

static void *run(void *arg)
{
    struct server *s = arg;
    struct progress p = {.start_us = server_now_us(), .is_terminal = isatty(STDERR_FILENO)};
    s->load.code = load(s, &s->load, &p);
    atomic_store_explicit(&s->load.is_done, true, memory_order_release);
    uv_async_send(&s->wake);
    return NULL;
}

int loader_start(struct server *s, struct sl_error *e)
{
    if (pthread_create(&s->loader, NULL, run, s) != 0)
        return sl_fail(e, SL_EINTERNAL, "cannot start a thread");
    return 0;
}

/* ------------------------------------------------------------------ afterwards, io thread */

/* --served-model-name, else the last part of the path (without .gguf) and the path itself. */
static void name_model(struct server *s)
{
    const struct options *o = s->o;
    int n = 0;
    for (; n < o->served_model_name.n; n++) s->names[n] = o->served_model_name.v[n];
    if (n == 0) {
        struct str path = o->model ? str_of(o->model) : STR("sim");
        while (path.n > 1 && path.p[path.n - 1] == '/') path.n--;
        const char *slash = memrchr(path.p, '/', path.n);
        struct str base =
            slash ? (struct str){slash + 1, path.n - (size_t)(slash + 1 - path.p)} : path;
        if (base.n > 5 && memcmp(base.p + base.n - 5, ".gguf", 5) == 0) base.n -= 5;
        snprintf(s->model_name, sizeof s->model_name, "%.*s", (int)base.n, base.p);
        s->names[n++] = s->model_name;
        if (o->model) s->names[n++] = o->model;
    }
    s->ctx.served_names = s->names;
    s->ctx.n_served = n;
}

/* The same build, model and configuration give the same fingerprint. */
static void make_fingerprint(struct server *s)
{
    char facts[512];
    uint8_t digest[SHA256_BYTES];
    const struct sl_info *i = s->ctx.info;
    int n = snprintf(facts, sizeof facts, "%s %s %s %s %s %llu %d", SLUICE_VERSION,
                     s->ctx.served_names[0], i->model_type, i->weight_types, i->device,
                     (unsigned long long)i->n_parameters, i->max_model_len);
    struct str text = {facts, n < (int)sizeof facts ? (size_t)n : sizeof facts - 1};
    sha256(digest, &text, 1);
    snprintf(s->ctx.fingerprint, sizeof s->ctx.fingerprint, "fp_%02x%02x%02x%02x%02x", digest[0],
             digest[1], digest[2], digest[3], digest[4]);
}

/* The model's own way of pooling, unless the operator knows better. */
static struct pooling_config pooling_of(const struct server *s)
{
    static const char *const names[] = {[SL_POOL_NONE] = "none",
                                        [SL_POOL_LAST] = "last",
                                        [SL_POOL_MEAN] = "mean",
                                        [SL_POOL_CLS] = "cls"};
    struct pooling_config p = s->text->pooling;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(s->o->pooling, names[i]) == 0) p.kind = (enum sl_pool)i;
    return p;
}

static void banner(const struct server *s)
{
    char url[300];
    const struct sl_info *i = s->ctx.info;
    listen_url(s, url, sizeof url);
    int64_t n_tokens = (int64_t)i->num_blocks * i->block_size;
    char each[32] = "";
    if (i->n_ranks > 1) snprintf(each, sizeof each, " on each of %d ranks", i->n_ranks);
    fprintf(stderr, "sluice   %s on %s\n", SLUICE_VERSION, i->device);
    fprintf(stderr, "model    %s  %s %.2fB %s  context %d  template %s\n", s->names[0],
            i->model_type, (double)i->n_parameters * 1e-9, i->weight_types, i->max_model_len,
            s->text->chat ? "yes" : "none");
    fprintf(stderr,
            "kv       %d pages x %d tokens = %lld tokens: %.1f full-length sequences, %.2f GB%s\n",
            i->num_blocks, i->block_size, (long long)n_tokens,
            (double)n_tokens / (i->max_model_len ? i->max_model_len : 1),
            (double)i->kv_bytes * 1e-9, each);
    if (i->memory_bytes)
        fprintf(
            stderr,
            "memory   weights %.2f GB, activations %.2f, kv %.2f, device %.2f: %.2f of the %.2f "
            "allowed, %.2f in all%s\n",
            (double)i->weight_bytes * 1e-9, (double)i->scratch_bytes * 1e-9,
            (double)i->kv_bytes * 1e-9, (double)i->state_bytes * 1e-9,
            (double)(i->weight_bytes + i->scratch_bytes + i->kv_bytes + i->state_bytes) * 1e-9,
            (double)i->budget_bytes * 1e-9, (double)i->memory_bytes * 1e-9, each);
    fprintf(stderr, "ready    in %.1f s  %s%s%s  api key %s\n",
            (double)(server_now_us() - s->start_us) * 1e-6, url, s->o->uds ? " on " : "",
            s->o->uds ? s->o->uds : "", auth_has_keys(s->auth) ? "needed" : "off");
    fprintf(stderr,
            "try      curl -s %s%s%s%s/v1/completions -H 'content-type: application/json'%s -d "
            "'{\"prompt\":\"The capital of France is\",\"temperature\":0,\"stop\":\"\\n\"}'\n",
            s->o->uds ? "--unix-socket " : "", s->o->uds ? s->o->uds : "", s->o->uds ? " " : "",
            url, auth_has_keys(s->auth) ? " -H \"authorization: Bearer $KEY\"" : "");
}

bool loader_finish(struct server *s)
{
    if (s->phase != SERVER_LOADING || !atomic_load_explicit(&s->load.is_done, memory_order_acquire))
        return false;
    pthread_join(s->loader, NULL);
    s->text = s->load.text;
    s->engine = s->load.engine;
    if (s->load.code < 0) return true;
    s->ctx = (struct api_context){
        .text = s->text,
        .info = sl_get_info(s->engine),
        .vocab = s->load.vocab,
        .grammars = grammar_cache_new(GRAMMAR_CACHE_BYTES),
        .created = (int64_t)time(NULL),
        .n_max = (int)s->o->max_choices,
        .strict_length = s->o->strict_length,
        .model_defaults = s->o->generation_defaults,
        .has_store = s->responses != NULL,
        .pooling = pooling_of(s),
        .formats = s->load.formats,
        .reasoning_field = s->o->reasoning_field,
        .keep_canonical = s->o->response_cache_bytes > 0,
    };
    name_model(s);
    make_fingerprint(s);
    banner(s);
    return true;
}
