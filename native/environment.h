// What each environment (the main thread's, and each worker's; one more wherever the addon is loaded anew) has of its
// own, and how its callbacks are called. An environment has one thread, and Node runs everything here on it: nothing
// needs a lock.

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
  struct mapping *mappings[1 << MAPPING_BUCKETS_LOG2];  // backing.c: all that are alive, by address
  napi_ref on_view_freed;                                // view.c; NULL if there is no listener
  napi_async_context view_context;
};

// Call first of all. False after it has thrown.
bool set_up_environment(napi_env env);

// Stays until all clean-up hooks and all finalisers of the environment have run. NULL only where setting up failed.
struct environment *environment_of(napi_env env);

// Calls a JavaScript function from the event loop. What it throws is an uncaught exception. Does nothing when the
// environment is ending and no JavaScript may run any more.
void call_from_loop(napi_env env, napi_async_context context, napi_value function, size_t count,
                    const napi_value *arguments);
