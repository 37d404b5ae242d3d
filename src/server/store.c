/* store.c - the store thread and its two queues: jobs down under a lock, done jobs up by an async. */
#include "server/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/db.h"

STAILQ_HEAD(job_list, store_job);

struct store {
    uv_async_t wake; /* owned by the loop; done jobs wait */
    struct db *db;   /* the store thread's, once it runs */
    int lock_fd;
    pthread_t thread;
    pthread_mutex_t mutex; /* over what follows */
    pthread_cond_t has_work;
    struct job_list todo, done;
    bool is_quitting;
};

static struct store_job *take(struct store *s)
{
    struct store_job *j;
    pthread_mutex_lock(&s->mutex);
    while (!(j = STAILQ_FIRST(&s->todo)) && !s->is_quitting)
        pthread_cond_wait(&s->has_work, &s->mutex);
    if (j) STAILQ_REMOVE_HEAD(&s->todo, link);
    pthread_mutex_unlock(&s->mutex);
    return j;
}

static void *run(void *arg)
{
    struct store *s = arg;
    struct store_job *j;
    while ((j = take(s))) {
        j->run(j, s->db);
        pthread_mutex_lock(&s->mutex);
        STAILQ_INSERT_TAIL(&s->done, j, link);
        pthread_mutex_unlock(&s->mutex);
        uv_async_send(&s->wake);
    }
    return NULL;
}

static void give_back(struct store *s)
{
    struct store_job *j;
    do {
        pthread_mutex_lock(&s->mutex);
        j = STAILQ_FIRST(&s->done);
        if (j) STAILQ_REMOVE_HEAD(&s->done, link);
        pthread_mutex_unlock(&s->mutex);
        if (j) j->done(j);
    } while (j);
}

static void on_wake(uv_async_t *h)
{
    give_back(h->data);
}

void store_submit(struct store *s, struct store_job *j)
{
    pthread_mutex_lock(&s->mutex);
    STAILQ_INSERT_TAIL(&s->todo, j, link);
    pthread_cond_signal(&s->has_work);
    pthread_mutex_unlock(&s->mutex);
}

static int make_dir(const char *path, struct sl_error *e)
{
    struct stat st;
    if (mkdir(path, 0700) == 0) return 0;
    if (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return 0;
    return sl_fail(e, SL_EIO, "--data-dir: cannot make the folder %.150s: %s", path,
                   strerror(errno));
}

/* One server a folder: two would answer the same lines. */
static int lock_dir(struct store *s, const char *dir, struct sl_error *e)
{
    char path[DB_PATH_MAX];
    snprintf(path, sizeof path, "%s/lock", dir);
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0)
        return sl_fail(e, SL_EIO, "--data-dir: cannot write to %.150s: %s", dir, strerror(errno));
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0) return 0;
    return sl_fail(e, SL_EIO, "--data-dir %.150s is in use by another server", dir);
}

static int prepare(struct store *s, const char *dir, struct sl_error *e)
{
    char files[DB_PATH_MAX];
    snprintf(files, sizeof files, "%s/files", dir);
    TRY(make_dir(dir, e));
    TRY(make_dir(files, e));
    TRY(lock_dir(s, dir, e));
    return db_open(&s->db, dir, e);
}

int store_open(struct store **out, const char *dir, uv_loop_t *loop, struct sl_error *e)
{
    struct store *s = xcalloc(1, sizeof *s);
    s->lock_fd = -1;
    STAILQ_INIT(&s->todo);
    STAILQ_INIT(&s->done);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->has_work, NULL);
    int code = prepare(s, dir, e);
    if (code == 0 && pthread_create(&s->thread, NULL, run, s) != 0)
        code = sl_fail(e, SL_EINTERNAL, "cannot start the store's thread");
    if (code < 0) {
        db_close(s->db);
        if (s->lock_fd >= 0) close(s->lock_fd);
        free(s);
        return code;
    }
    uv_async_init(loop, &s->wake, on_wake);
    s->wake.data = s;
    *out = s;
    return 0;
}

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

void store_close(struct store *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->mutex);
    s->is_quitting = true;
    pthread_cond_signal(&s->has_work);
    pthread_mutex_unlock(&s->mutex);
    pthread_join(s->thread, NULL);
    give_back(s); /* whose done calls ask for nothing more */
    db_close(s->db);
    close(s->lock_fd); /* gives the lock up */
    pthread_mutex_destroy(&s->mutex);
    pthread_cond_destroy(&s->has_work);
    uv_close((uv_handle_t *)&s->wake, on_closed);
}
