/* replay.c - runs a fuzz target over its corpus without a fuzzer: every file of the folders and
 * every file named on the command line. Ends with "N passed, N failed"; a crash is the failure. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int n_passed, n_failed;

static void replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st) != 0) {
        printf("cannot read %s\n", path);
        n_failed++;
        if (f) fclose(f);
        return;
    }
    uint8_t *data = malloc((size_t)st.st_size + 1); /* exact size matters to ASan: realloc below */
    size_t n = fread(data, 1, (size_t)st.st_size, f);
    fclose(f);
    uint8_t *exact = realloc(data, n ? n : 1);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    n_passed++;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        if (!d) {
            replay_file(argv[i]);
            continue;
        }
        for (struct dirent *ent; (ent = readdir(d));) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], ent->d_name);
            if (ent->d_name[0] != '.') replay_file(path);
        }
        closedir(d);
    }
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed || !n_passed;
}
