/* log.h - one line a write(2): level, time, subsystem, text or key=value pairs. Any thread.
 *
 * Nothing is logged per token. Levels: error, warn, info, debug; set once at start by log_setup.
 * Text never holds prompts, keys or generated text.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_TEXT, LOG_JSON };

/* Before other threads start. */
void log_setup(enum log_level level, enum log_format format);
int log_on(enum log_level level); /* would such a line be written? */
void log_write(enum log_level level, const char *subsys, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(subsys, ...) log_write(LOG_ERROR, subsys, __VA_ARGS__)
#define log_warn(subsys, ...)  log_write(LOG_WARN, subsys, __VA_ARGS__)
#define log_info(subsys, ...)  log_write(LOG_INFO, subsys, __VA_ARGS__)
#define log_debug(subsys, ...)                                                                     \
    do {                                                                                           \
        if (log_on(LOG_DEBUG)) log_write(LOG_DEBUG, subsys, __VA_ARGS__);                          \
    } while (0)

#endif
