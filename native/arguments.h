// Converts between JavaScript's values and C's. A reader that has thrown returns false, and its caller then returns
// NULL at once. Numbers are read as doubles and checked, because Node-API's integer readers turn NaN into 0, which is a
// valid descriptor.

#pragma once

#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  PATH_BYTES = 4096,  // PATH_MAX, with the NUL
};

// Fills `values` with the first `count` arguments. Arguments that were not passed are undefined.
bool read_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *values);

// A whole number from 0 to 2^53 - 1.
bool read_integer(napi_env env, napi_value value, const char *name, int64_t *result);
bool read_integer_up_to(napi_env env, napi_value value, const char *name, int64_t maximum, int64_t *result);
bool read_descriptor(napi_env env, napi_value value, int *result);
bool read_boolean(napi_env env, napi_value value, const char *name, bool *result);

// A Uint8Array, such as a Buffer. The bytes are valid until JavaScript runs again.
bool read_bytes(napi_env env, napi_value value, const char *name, uint8_t **bytes, size_t *byte_length);

// A non-empty string without NUL, as UTF-8 with a terminating NUL. Throws EINVAL of `syscall` if the string is empty or
// has a NUL in it, and ENAMETOOLONG of `syscall` if it is longer than PATH_BYTES - 1.
bool read_path(napi_env env, napi_value value, const char *syscall, char path[PATH_BYTES], size_t *byte_length);

napi_value make_integer(napi_env env, int64_t value);
bool set_integer(napi_env env, napi_value object, const char *name, int64_t value);
