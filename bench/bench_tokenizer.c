/* bench_tokenizer.c - encoding speed on one core: bench_tokenizer MODEL TEXT_FILE [ROUNDS].
 *
 * MODEL is a folder with tokenizer.json or a .gguf file. The text is encoded as 64 KiB documents, cut at
 * line ends; prints MB/s and bytes a token of the best and the median round.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "load/model_text.h"

enum { DOCUMENT = 65536, ROUNDS_MAX = 100, TEXT_MAX = 256 << 20 };

/* CPU time of this one thread: other load on the machine counts less. */
static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static struct str read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return (struct str){NULL, 0};
    char *p = xmalloc(TEXT_MAX);
    size_t n = fread(p, 1, TEXT_MAX, f);
    fclose(f);
    return (struct str){p, n};
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds for the whole text. */
static double encode_all(const struct tokenizer *t, struct str text, size_t *n_ids)
{
    double start = now();
    *n_ids = 0;
    for (size_t at = 0; at < text.n;) {
        size_t n = text.n - at < DOCUMENT ? text.n - at : DOCUMENT;
        while (at + n < text.n && n > 1 && text.p[at + n - 1] != '\n') n--;
        struct ids ids = {0};
        struct sl_error e;
        if (tokenizer_encode(t, (struct str){text.p + at, n}, 0, &ids, &e) < 0) exit(EXIT_FAILURE);
        *n_ids += ids.n;
        ids_free(&ids);
        at += n;
    }
    return now() - start;
}

int main(int argc, char **argv)
{
    struct model_text *m;
    struct sl_error e = {0};
    struct str text = argc > 2 ? read_file(argv[2]) : (struct str){NULL, 0};
    int rounds = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 7;
    double seconds[ROUNDS_MAX];
    size_t n_ids = 0;
    if (!text.n || rounds < 1 || rounds > ROUNDS_MAX || model_text_open(&m, argv[1], NULL, &e) < 0) {
        fprintf(stderr, "bench_tokenizer MODEL TEXT_FILE [ROUNDS]: %s\n", e.text);
        return EXIT_FAILURE;
    }
    for (int i = 0; i < rounds; i++) seconds[i] = encode_all(m->tok, text, &n_ids);
    qsort(seconds, (size_t)rounds, sizeof *seconds, by_value);
    printf("%.1f MB, %.2f bytes a token: best %.1f MB/s, median %.1f MB/s\n", (double)text.n / 1e6,
           (double)text.n / (double)n_ids, (double)text.n / seconds[0] / 1e6,
           (double)text.n / seconds[rounds / 2] / 1e6);
    model_text_close(m);
    return EXIT_SUCCESS;
}
