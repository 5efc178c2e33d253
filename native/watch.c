// Watches descriptors in the event loop of their environment.
//
// A watch has two owners: libuv, until the close callback, and the JavaScript handle, until it is collected. The last
// one frees the watch. A watch whose handle was collected goes on watching, like a timer whose handle was dropped.
//
// When an environment ends (a worker returns or is terminated, the process exits), Node aborts if its loop still has
// open handles. So an asynchronous clean-up hook closes all watches. The hook is finished when libuv has closed the
// last one. Until then it also keeps `env`, and with it this file's state, alive.

#include "arguments.h"
#include "environment.h"
#include "errors.h"
#include "functions.h"
#include "uv_abi.h"

#include <errno.h>
#include <stdlib.h>

struct watch {
  uv_poll_t *poll;
  struct watches *all;
  struct watch *previous, *next;  // in all->open, while not closing
  napi_env env;
  napi_ref on_event;
  napi_async_context async_context;
  bool for_writing;  // such a watch reports once
  bool closing;
  int owners;
};

// One per environment.
struct watches {
  uv_loop_t *loop;
  struct watch *open;
  size_t in_loop;                      // watches whose close callback has not run
  napi_async_cleanup_hook_handle hook;  // NULL once finished
  bool ending;
};

// Distinguishes our handles from other wrapped objects. A random but fixed number.
static const napi_type_tag WATCH_TAG = {0x8d1e6f0b52c94a37ULL, 0xb0f34c7d9a5e2168ULL};

static void end_watches(napi_async_cleanup_hook_handle hook, void *data);
static void on_poll(uv_poll_t *poll, int status, int events);

bool set_up_watches(napi_env env) {
  struct environment *environment = environment_of(env);
  struct watches *all = calloc(1, sizeof *all);
  if (environment == NULL || all == NULL) {
    free(all);
    throw_system_error(env, ENOMEM, "calloc", "load the addon");
    return false;
  }
  environment->watches = all;  // the environment frees it
  if (napi_get_uv_event_loop(env, &all->loop) != napi_ok) {
    throw_napi_failure(env, "napi_get_uv_event_loop");
    return false;
  }
  if (napi_add_async_cleanup_hook(env, end_watches, all, &all->hook) != napi_ok) {
    throw_napi_failure(env, "napi_add_async_cleanup_hook");
    return false;
  }
  return true;
}

static void disown(struct watch *watch) {
  if (--watch->owners > 0) return;
  free(watch->poll);
  free(watch);
}

static void finish_hook(struct watches *all) {
  if (!all->ending || all->in_loop > 0 || all->hook == NULL) return;
  napi_async_cleanup_hook_handle hook = all->hook;
  all->hook = NULL;
  napi_remove_async_cleanup_hook(hook);  // `all` may be freed from here on
}

static void on_closed(uv_handle_t *handle) {
  struct watch *watch = uv_handle_get_data(handle);
  struct watches *all = watch->all;
  disown(watch);
  all->in_loop--;
  finish_hook(all);
}

// Afterwards no callback is called, and the descriptor may be closed: libuv removes it from its epoll set at once. Only
// the handle's memory stays until on_closed.
static void close_now(struct watch *watch) {
  if (watch->closing) return;
  watch->closing = true;
  if (watch->previous != NULL) {
    watch->previous->next = watch->next;
  } else {
    watch->all->open = watch->next;
  }
  if (watch->next != NULL) watch->next->previous = watch->previous;
  uv_close((uv_handle_t *)watch->poll, on_closed);
  // These two calls cannot throw and run no JavaScript, so they are allowed while the environment ends.
  napi_delete_reference(watch->env, watch->on_event);
  napi_async_destroy(watch->env, watch->async_context);
}

static void end_watches(napi_async_cleanup_hook_handle hook, void *data) {
  struct watches *all = data;
  all->hook = hook;
  all->ending = true;
  while (all->open != NULL) close_now(all->open);
  finish_hook(all);
}

static void on_handle_collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  disown(data);
}

// Makes the JavaScript side of a watch: callback, async context and handle. Returns false, with nothing left, if it
// fails.
static bool attach_to_javascript(napi_env env, struct watch *watch, napi_value on_event, napi_value *handle) {
  napi_value name;
  if (napi_create_string_utf8(env, "isthmus.watch", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_object(env, handle) != napi_ok || napi_type_tag_object(env, *handle, &WATCH_TAG) != napi_ok) {
    return false;
  }
  if (napi_async_init(env, NULL, name, &watch->async_context) != napi_ok) return false;
  if (napi_create_reference(env, on_event, 1, &watch->on_event) == napi_ok) {
    if (napi_wrap(env, *handle, watch, on_handle_collected, NULL, NULL) == napi_ok) return true;
    napi_delete_reference(env, watch->on_event);
  }
  napi_async_destroy(env, watch->async_context);
  return false;
}

static napi_value start_watch(napi_env env, napi_callback_info info, const char *callback_name, bool for_writing) {
  napi_value values[2], handle;
  napi_valuetype type;
  int fd;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], &fd)) return NULL;
  if (napi_typeof(env, values[1], &type) != napi_ok || type != napi_function) {
    return throw_type_error(env, "%s must be a function", callback_name);
  }
  struct environment *environment = environment_of(env);
  struct watches *all = environment == NULL ? NULL : environment->watches;
  if (all == NULL || all->ending) {
    return throw_explained_error(env, ECANCELED, "epoll_ctl", "watch descriptor %d: the environment is ending", fd);
  }

  struct watch *watch = calloc(1, sizeof *watch);
  uv_poll_t *poll = calloc(1, uv_handle_size(UV_POLL));
  if (watch == NULL || poll == NULL) {
    free(watch);
    free(poll);
    return throw_system_error(env, ENOMEM, "calloc", "watch descriptor %d", fd);
  }
  *watch = (struct watch){.poll = poll, .all = all, .env = env, .for_writing = for_writing, .owners = 1};

  int failed = uv_poll_init(all->loop, poll, fd);
  if (failed < 0) {  // then it is not in the loop; libuv's errors are negative errnos
    disown(watch);
    return throw_system_error(env, -failed, "epoll_ctl", "watch descriptor %d", fd);
  }
  uv_handle_set_data((uv_handle_t *)poll, watch);
  all->in_loop++;
  if (!attach_to_javascript(env, watch, values[1], &handle)) {
    uv_close((uv_handle_t *)poll, on_closed);
    return throw_napi_failure(env, "napi_wrap");
  }
  watch->owners = 2;
  watch->next = all->open;
  if (all->open != NULL) all->open->previous = watch;
  all->open = watch;

  failed = uv_poll_start(poll, for_writing ? UV_WRITABLE : UV_READABLE | UV_DISCONNECT, on_poll);
  if (failed < 0) {
    close_now(watch);
    return throw_system_error(env, -failed, "epoll_ctl", "watch descriptor %d", fd);
  }
  return handle;
}

napi_value watch_descriptor(napi_env env, napi_callback_info info) {
  return start_watch(env, info, "onEvent", false);
}

napi_value watch_writable(napi_env env, napi_callback_info info) { return start_watch(env, info, "onWritable", true); }

static void on_poll(uv_poll_t *poll, int status, int events) {
  struct watch *watch = uv_handle_get_data((uv_handle_t *)poll);
  if (watch->closing) return;
  napi_env env = watch->env;
  napi_handle_scope scope;
  napi_value on_event, arguments[2];
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  // Stopped before the call, so that the callback may watch the same descriptor again. Closed after the call, because
  // closing destroys the callback's async context.
  if (watch->for_writing) uv_poll_stop(poll);
  bool readable = status >= 0 && (events & UV_READABLE) != 0;
  bool hangup = status < 0 || (events & UV_DISCONNECT) != 0;
  if (napi_get_reference_value(env, watch->on_event, &on_event) == napi_ok &&
      napi_get_boolean(env, readable, &arguments[0]) == napi_ok &&
      napi_get_boolean(env, hangup, &arguments[1]) == napi_ok) {
    // The callback may close the watch, but cannot free it: libuv owns it until on_closed, in a later phase of the
    // loop.
    call_from_loop(env, watch->async_context, on_event, watch->for_writing ? 0 : 2, arguments);
  }
  if (watch->for_writing) close_now(watch);
  napi_close_handle_scope(env, scope);
}

static struct watch *read_watch(napi_env env, napi_callback_info info) {
  napi_value handle;
  bool is_watch = false;
  void *watch;
  if (!read_arguments(env, info, 1, &handle)) return NULL;
  if (napi_check_object_type_tag(env, handle, &WATCH_TAG, &is_watch) != napi_ok || !is_watch ||
      napi_unwrap(env, handle, &watch) != napi_ok) {
    throw_type_error(env, "not a WatchHandle");
    return NULL;
  }
  return watch;
}

napi_value ref_watch(napi_env env, napi_callback_info info) {
  struct watch *watch = read_watch(env, info);
  if (watch != NULL && !watch->closing) uv_ref((uv_handle_t *)watch->poll);
  return NULL;
}

napi_value unref_watch(napi_env env, napi_callback_info info) {
  struct watch *watch = read_watch(env, info);
  if (watch != NULL && !watch->closing) uv_unref((uv_handle_t *)watch->poll);
  return NULL;
}

napi_value close_watch(napi_env env, napi_callback_info info) {
  struct watch *watch = read_watch(env, info);
  if (watch != NULL) close_now(watch);
  return NULL;
}
