#include "environment.h"

#include <errno.h>
#include <stdlib.h>

#include "errors.h"

static void free_environment(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  struct environment *environment = data;
  free(environment->watches);
  free(environment);
}

bool set_up_environment(napi_env env) {
  struct environment *environment = calloc(1, sizeof *environment);
  if (environment == NULL) {
    throw_system_error(env, ENOMEM, "calloc", "load the addon");
    return false;
  }
  if (napi_set_instance_data(env, environment, free_environment, NULL) == napi_ok) return true;
  free(environment);
  throw_napi_failure(env, "napi_set_instance_data");
  return false;
}

struct environment *environment_of(napi_env env) {
  void *environment = NULL;
  return napi_get_instance_data(env, &environment) == napi_ok ? environment : NULL;
}

void call_from_loop(napi_env env, napi_async_context context, napi_value function, size_t count,
                    const napi_value *arguments) {
  napi_value global, result, error;
  if (napi_get_global(env, &global) != napi_ok) return;
  // Node-API would ignore an exception that is thrown in a finaliser or a libuv callback.
  bool pending = false;
  if (napi_make_callback(env, context, global, function, count, arguments, &result) != napi_ok &&
      napi_is_exception_pending(env, &pending) == napi_ok && pending &&
      napi_get_and_clear_last_exception(env, &error) == napi_ok) {
    napi_fatal_exception(env, error);
  }
}
