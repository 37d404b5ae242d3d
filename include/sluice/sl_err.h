/* sl_err.h - the error map: every operational error of sluice, in one list.
 *
 * A function that can fail returns 0 or a negative code from this list; where a human will read the
 * reason it also takes a `struct sl_error *` (caller's stack) as its last argument. Each row carries
 * what the HTTP surface answers for it: status, OpenAI `type`, OpenAI `code` (NULL: JSON null).
 * Source of the HTTP columns: OpenAI error object; see tests/e2e for the exact bodies.
 * This header is C17 and C++17 (nvcc includes it).
 */
#ifndef SLUICE_SL_ERR_H
#define SLUICE_SL_ERR_H

#include <stdarg.h>

/*    name              status type                     code                        */
// clang-format off
#define SL_ERR_MAP(X)                                                                             \
    X(SL_EINVAL,        400, "invalid_request_error", 0)                                          \
    X(SL_EMISSING,      400, "invalid_request_error", "missing_required_parameter")               \
    X(SL_ETYPE,         400, "invalid_request_error", "invalid_type")                             \
    X(SL_EVALUE,        400, "invalid_request_error", "invalid_value")                            \
    X(SL_EBELOW_DEC,    400, "invalid_request_error", "decimal_below_min_value")                  \
    X(SL_EABOVE_DEC,    400, "invalid_request_error", "decimal_above_max_value")                  \
    X(SL_EBELOW_INT,    400, "invalid_request_error", "integer_below_min_value")                  \
    X(SL_EABOVE_INT,    400, "invalid_request_error", "integer_above_max_value")                  \
    X(SL_EEMPTY,        400, "invalid_request_error", "empty_array")                              \
    X(SL_ELONG,         400, "invalid_request_error", "array_above_max_length")                   \
    X(SL_EPARAM,        400, "invalid_request_error", "unsupported_parameter")                    \
    X(SL_EUNSUPPORTED,  400, "invalid_request_error", "unsupported_value")                        \
    X(SL_ECONTEXT,      400, "invalid_request_error", "context_length_exceeded")                  \
    X(SL_ESCHEMA,       400, "invalid_request_error", "invalid_json_schema")                      \
    X(SL_ENOKEY,        401, "invalid_request_error", 0)                                          \
    X(SL_EBADKEY,       401, "invalid_request_error", "invalid_api_key")                          \
    X(SL_EPERM,         403, "invalid_request_error", "permission_denied")                        \
    X(SL_ENOMODEL,      404, "invalid_request_error", "model_not_found")                          \
    X(SL_ENOTFOUND,     404, "invalid_request_error", 0)                                          \
    X(SL_ENOPREVIOUS,   404, "invalid_request_error", "previous_response_not_found")              \
    X(SL_EMETHOD,       405, "invalid_request_error", "method_not_supported")                     \
    X(SL_ETIMEDOUT_RX,  408, "invalid_request_error", "request_timeout")                          \
    X(SL_ETOOLARGE,     413, "invalid_request_error", "request_too_large")                        \
    X(SL_EMEDIA,        415, "invalid_request_error", "unsupported_media_type")                   \
    X(SL_EHEADERS,      431, "invalid_request_error", "request_header_fields_too_large")          \
    X(SL_ERATE,         429, "requests",              "rate_limit_exceeded")                      \
    X(SL_ETOKENS,       429, "tokens",                "rate_limit_exceeded")                      \
    X(SL_EQUOTA,        429, "insufficient_quota",    "insufficient_quota")                       \
    X(SL_EBUSY,         429, "requests",              "queue_full")                               \
    X(SL_ECANCELED,     499, "server_error",          "cancelled")                                \
    X(SL_EINTERNAL,     500, "server_error",          "internal_error")                           \
    X(SL_ENUMERIC,      500, "server_error",          "numerical_error")                          \
    X(SL_EDEVICE,       500, "server_error",          "device_error")                             \
    X(SL_ENOSYS,        501, "server_error",          "not_implemented")                          \
    X(SL_EOVERLOAD,     503, "server_error",          "server_overloaded")                        \
    X(SL_ELOADING,      503, "server_error",          "model_loading")                            \
    X(SL_EDRAINING,     503, "server_error",          "server_draining")                          \
    X(SL_EDEADLINE,     504, "server_error",          "timeout")                                  \
    X(SL_EIO,           500, "server_error",          "io_error")      /* file system */          \
    X(SL_EFORMAT,       500, "server_error",          "bad_file")      /* a broken model file */  \
    X(SL_ENOMEM,        500, "server_error",          "out_of_memory")
// clang-format on

#define SL_ERR_ORDINAL(name, status, type, code) name##_N,
enum sl_err_ordinal { SL_ERR_NONE = 0, SL_ERR_MAP(SL_ERR_ORDINAL) SL_ERR_COUNT };
#undef SL_ERR_ORDINAL

#define SL_ERR_CODE(name, status, type, code) name = -name##_N,
enum sl_code { SL_OK = 0, SL_ERR_MAP(SL_ERR_CODE) };
#undef SL_ERR_CODE

/* What went wrong, for a human. Lives on the caller's stack; functions only ever fill it. */
struct sl_error {
    int code;        /* one of enum sl_code, 0 when unset */
    char param[96];  /* request field at fault ("messages[2].content"), or "" */
    char text[240];  /* one line, no trailing newline, no pointer values, no library texts */
};

#ifdef __cplusplus
extern "C" {
#endif

/* Fill `e` (may be NULL) with code and a printf-formatted text; clears param. Returns `code`, so
 * that `return sl_fail(e, SL_EINVAL, "...")` reads well. Any thread. */
int sl_fail(struct sl_error *e, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* As sl_fail, naming the request field at fault. */
int sl_fail_param(struct sl_error *e, int code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* The map's columns for a negative code; an unknown code reads as SL_EINTERNAL. Static strings. */
const char *sl_err_name(int code);
int sl_err_status(int code);
const char *sl_err_type(int code);
const char *sl_err_openai_code(int code); /* NULL where the body says null */

#ifdef __cplusplus
}
#endif
#endif
