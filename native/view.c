// Views: ArrayBuffers over a part of a mapping. Each has a number, its token. When the view's backing store is gone,
// the listener is called with the token. backing.h says what this relies on.

#include "arguments.h"
#include "backing.h"
#include "environment.h"
#include "errors.h"
#include "functions.h"

#include <errno.h>
#include <stdlib.h>

struct view {
  struct mapping *mapping;
  int64_t token;
};

static void on_view_freed(napi_env env, void *data, void *hint) {
  (void)data;
  struct view view = *(struct view *)hint;
  free(hint);
  drop_part(env, view.mapping);

  struct environment *environment = environment_of(env);
  if (environment == NULL || environment->on_view_freed == NULL) return;
  // A scope for each call frees the handles made in it, because many finalisers may run in one turn.
  napi_handle_scope scope;
  napi_value function, token;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  if (napi_get_reference_value(env, environment->on_view_freed, &function) == napi_ok && function != NULL &&
      napi_create_int64(env, view.token, &token) == napi_ok) {
    call_from_loop(env, environment->view_context, function, 1, &token);
  }
  napi_close_handle_scope(env, scope);
}

napi_value view_mapping(napi_env env, napi_callback_info info) {
  napi_value values[4];
  int64_t offset, byte_length, token;
  size_t whole;
  if (!read_arguments(env, info, 4, values)) return NULL;
  struct mapping *mapping = find_mapping(env, values[0], &whole);
  if (mapping == NULL || !read_integer_up_to(env, values[1], "offset", (int64_t)whole, &offset) ||
      !read_integer_up_to(env, values[2], "byteLength", (int64_t)whole, &byte_length) ||
      !read_integer(env, values[3], "token", &token)) {
    return NULL;
  }
  if (byte_length == 0 || offset + byte_length > (int64_t)whole) {
    return throw_range_error(env, "a view of %lld bytes at %lld is empty or does not lie in a mapping of %zu bytes",
                             (long long)byte_length, (long long)offset, whole);
  }
  struct view *view = malloc(sizeof *view);
  if (view == NULL) return throw_system_error(env, ENOMEM, "malloc", "view %lld bytes", (long long)byte_length);
  *view = (struct view){.mapping = mapping, .token = token};
  bool will_finalise;
  napi_value buffer = make_part_buffer(env, mapping, mapping->start + offset, (size_t)byte_length, on_view_freed, view,
                                       &will_finalise);
  if (!will_finalise) {
    free(view);
    drop_part(env, mapping);
  }
  return buffer;
}

static void drop_listener(napi_env env, struct environment *environment) {
  if (environment->on_view_freed == NULL) return;
  napi_delete_reference(env, environment->on_view_freed);
  napi_async_destroy(env, environment->view_context);
  environment->on_view_freed = NULL;
}

static void end_listener(void *data) {
  napi_env env = data;
  struct environment *environment = environment_of(env);
  if (environment != NULL) drop_listener(env, environment);
}

napi_value set_view_listener(napi_env env, napi_callback_info info) {
  napi_value listener, name;
  napi_valuetype type;
  if (!read_arguments(env, info, 1, &listener)) return NULL;
  if (napi_typeof(env, listener, &type) != napi_ok || type != napi_function) {
    return throw_type_error(env, "listener must be a function");
  }
  struct environment *environment = environment_of(env);
  if (environment == NULL) return throw_napi_failure(env, "napi_get_instance_data");

  drop_listener(env, environment);
  napi_async_context context;
  napi_ref reference;
  if (napi_create_string_utf8(env, "isthmus.viewFreed", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_async_init(env, NULL, name, &context) != napi_ok) {
    return throw_napi_failure(env, "napi_async_init");
  }
  if (napi_create_reference(env, listener, 1, &reference) != napi_ok) {
    napi_async_destroy(env, context);
    return throw_napi_failure(env, "napi_create_reference");
  }
  environment->on_view_freed = reference;
  environment->view_context = context;
  return NULL;
}

bool set_up_views(napi_env env) {
  if (napi_add_env_cleanup_hook(env, end_listener, env) == napi_ok) return true;
  throw_napi_failure(env, "napi_add_env_cleanup_hook");
  return false;
}
