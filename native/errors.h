// What the addon throws. Two kinds, never mixed: a system call that failed (an Error with code, errno and syscall, as
// Node's own have), and an argument that no caller may pass (a TypeError or RangeError with a code).

#pragma once

#include <node_api.h>

// Throws for the error number `error` of `syscall`. The printf-style `format` says what was attempted, with the names
// that the user gave; the text of the error, its name and a hint on how to lift the limit that was hit are added.
// Always returns NULL, so that a function can `return throw_system_error(...)`.
__attribute__((format(printf, 4, 5)))
napi_value throw_system_error(napi_env env, int error, const char *syscall, const char *format, ...);

// The same with a text of our own in place of the usual text of the error.
__attribute__((format(printf, 4, 5)))
napi_value throw_explained_error(napi_env env, int error, const char *syscall, const char *format, ...);

__attribute__((format(printf, 2, 3)))
napi_value throw_type_error(napi_env env, const char *format, ...);

__attribute__((format(printf, 2, 3)))
napi_value throw_range_error(napi_env env, const char *format, ...);

// A Node-API call failed that only fails when the environment is going away or memory is out. Keeps an exception
// that is already pending.
napi_value throw_napi_failure(napi_env env, const char *call);
