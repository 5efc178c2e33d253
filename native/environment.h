// The state of an environment, and how its callbacks are called. The main thread and each worker have an environment,
// and one more for each further time that the addon is loaded. Node runs everything here on the environment's own
// thread, so nothing needs a lock.

#pragma once

#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>

#include "descriptors.h"

struct mapping;
struct watches;

enum { MAPPING_BUCKETS_LOG2 = 10 };

struct environment {
  struct ledger descriptors;                             // descriptors.c
  struct watches *watches;                               // watch.c
  struct mapping *mappings[1 << MAPPING_BUCKETS_LOG2];  // backing.c: all mappings, by address
  napi_ref on_view_freed;                                // view.c; NULL if there is no listener
  napi_async_context view_context;
};

// Call before everything else. Returns false after it has thrown.
bool set_up_environment(napi_env env);

// The state is valid until all clean-up hooks and finalisers of the environment have run. NULL only if setting up
// failed.
struct environment *environment_of(napi_env env);

// Calls a JavaScript function from the event loop. An error that the function throws is an uncaught exception. Does
// nothing if the environment is ending, so that JavaScript cannot run any more.
void call_from_loop(napi_env env, napi_async_context context, napi_value function, size_t count,
                    const napi_value *arguments);
