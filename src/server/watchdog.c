/* watchdog.c - a thread that ends the process when the engine makes no step although it has work.
 *
 * It looks at the heartbeat once a second. Time counts only while work exists and the heartbeat
 * stands still, so a long idle time is no alarm. On the alarm the io thread is woken to tell every
 * client; the watchdog itself exits the process shortly after, whether that worked or not.
 */
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "server/serve.h"

enum {
    STUCK_S = 30, /* a prefill chunk is bounded to well under 2 s */
    TELL_MS = 1500,
    EXIT_STUCK = 71,
};
enum { WATCHING, STOPPING, FIRED };

static void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static void *run(void *arg)
{
    struct server *s = arg;
    uint64_t seen = 0;
    int n_still_ms = 0;
    enum { LOOK_MS = 250 };
    while (atomic_load_explicit(&s->watchdog_state, memory_order_acquire) == WATCHING) {
        int has_work = 0;
        uint64_t beat = sl_heartbeat_us(s->engine, &has_work);
        n_still_ms = has_work && beat == seen ? n_still_ms + LOOK_MS : 0;
        seen = beat;
        if (n_still_ms >= STUCK_S * 1000) {
            log_error("engine", "no step for %d s although there is work: ending", STUCK_S);
            atomic_store_explicit(&s->watchdog_state, FIRED, memory_order_release);
            uv_async_send(&s->wake);
            sleep_ms(TELL_MS);
            _exit(EXIT_STUCK);
        }
        sleep_ms(LOOK_MS);
    }
    return NULL;
}

void watchdog_start(struct server *s)
{
    atomic_store_explicit(&s->watchdog_state, WATCHING, memory_order_release);
    s->has_watchdog = pthread_create(&s->watchdog, NULL, run, s) == 0;
    if (!s->has_watchdog) log_warn("engine", "no watchdog: cannot start a thread");
}

void watchdog_stop(struct server *s)
{
    if (!s->has_watchdog) return;
    int watching = WATCHING;
    atomic_compare_exchange_strong(&s->watchdog_state, &watching, STOPPING);
    pthread_join(s->watchdog, NULL);
    s->has_watchdog = false;
}

bool watchdog_has_fired(struct server *s)
{
    return atomic_load_explicit(&s->watchdog_state, memory_order_acquire) == FIRED;
}
