// The errors that the addon throws. There are two kinds: a system call failed (an Error with code, errno and syscall,
// like Node's own), or an argument is invalid (a TypeError or RangeError with a code).

#pragma once

#include <node_api.h>

// Throws for the error number `error` of `syscall`. The printf-style `format` says what was attempted, with the names
// that the user gave. The error's text and name are added, and a hint on how to raise the limit that was reached.
// Always returns NULL, so that a function can `return throw_system_error(...)`.
__attribute__((format(printf, 4, 5)))
napi_value throw_system_error(napi_env env, int error, const char *syscall, const char *format, ...);

// The same, with our own text instead of the error's usual one.
__attribute__((format(printf, 4, 5)))
napi_value throw_explained_error(napi_env env, int error, const char *syscall, const char *format, ...);

__attribute__((format(printf, 2, 3)))
napi_value throw_type_error(napi_env env, const char *format, ...);

__attribute__((format(printf, 2, 3)))
napi_value throw_range_error(napi_env env, const char *format, ...);

// Throws for a Node-API call that fails only if the environment is ending or memory is exhausted. Keeps a pending
// exception.
napi_value throw_napi_failure(napi_env env, const char *call);
