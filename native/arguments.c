#include "arguments.h"

#include "errors.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

static const int64_t MAX_SAFE_INTEGER = (INT64_C(1) << 53) - 1;

bool read_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *values) {
  if (napi_get_cb_info(env, info, &count, values, NULL, NULL) == napi_ok) return true;
  throw_napi_failure(env, "napi_get_cb_info");
  return false;
}

bool read_integer(napi_env env, napi_value value, const char *name, int64_t *result) {
  return read_integer_up_to(env, value, name, MAX_SAFE_INTEGER, result);
}

bool read_integer_up_to(napi_env env, napi_value value, const char *name, int64_t maximum, int64_t *result) {
  double number;
  if (napi_get_value_double(env, value, &number) != napi_ok) {
    throw_type_error(env, "%s must be a number", name);
    return false;
  }
  // NaN fails the first comparison. 2^53 - 1 is the largest maximum, so the conversion is exact.
  if (!(number >= 0 && number <= (double)maximum) || number != (double)(int64_t)number) {
    throw_range_error(env, "%s must be a whole number from 0 to %lld; got %.17g", name, (long long)maximum, number);
    return false;
  }
  *result = (int64_t)number;
  return true;
}

bool read_descriptor(napi_env env, napi_value value, int *result) {
  int64_t number;
  if (!read_integer_up_to(env, value, "a descriptor", INT_MAX, &number)) return false;
  *result = (int)number;
  return true;
}

bool read_boolean(napi_env env, napi_value value, const char *name, bool *result) {
  if (napi_get_value_bool(env, value, result) == napi_ok) return true;
  throw_type_error(env, "%s must be a boolean", name);
  return false;
}

bool read_bytes(napi_env env, napi_value value, const char *name, uint8_t **bytes, size_t *byte_length) {
  bool is_typed_array = false;
  napi_typedarray_type type;
  void *data;
  if (napi_is_typedarray(env, value, &is_typed_array) != napi_ok || !is_typed_array ||
      napi_get_typedarray_info(env, value, &type, byte_length, &data, NULL, NULL) != napi_ok ||
      type != napi_uint8_array) {
    throw_type_error(env, "%s must be a Uint8Array", name);
    return false;
  }
  *bytes = data;
  return true;
}

bool read_path(napi_env env, napi_value value, const char *syscall, char path[PATH_BYTES], size_t *byte_length) {
  size_t whole_length;
  if (napi_get_value_string_utf8(env, value, NULL, 0, &whole_length) != napi_ok ||
      napi_get_value_string_utf8(env, value, path, PATH_BYTES, byte_length) != napi_ok) {
    throw_type_error(env, "a path or a name must be a string");
    return false;
  }
  if (whole_length > PATH_BYTES - 1) {
    throw_explained_error(env, ENAMETOOLONG, syscall, "%s: the path has %zu bytes, the limit is %d", syscall,
                          whole_length, PATH_BYTES - 1);
    return false;
  }
  if (whole_length == 0) {
    throw_explained_error(env, EINVAL, syscall, "%s: the path is empty", syscall);
    return false;
  }
  if (strlen(path) != whole_length) {
    throw_explained_error(env, EINVAL, syscall, "%s: the path has a NUL character after %s", syscall, path);
    return false;
  }
  return true;
}

napi_value make_integer(napi_env env, int64_t value) {
  napi_value result;
  if (napi_create_int64(env, value, &result) == napi_ok) return result;
  return throw_napi_failure(env, "napi_create_int64");
}

bool set_integer(napi_env env, napi_value object, const char *name, int64_t value) {
  napi_value number = make_integer(env, value);
  if (number == NULL) return false;
  if (napi_set_named_property(env, object, name, number) == napi_ok) return true;
  throw_napi_failure(env, "napi_set_named_property");
  return false;
}
