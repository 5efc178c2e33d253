#include "backing.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "arguments.h"
#include "closing.h"
#include "environment.h"
#include "errors.h"
#include "functions.h"

// All threads of the process together, because the kernel's limit is per process.
static atomic_int live_mappings = 0;

// Fibonacci hashing. Mappings of one size lie at multiples of that size, so the low bits would collide.
static struct mapping **bucket_of(struct environment *environment, const char *start) {
  uint64_t hash = (uint64_t)(uintptr_t)start * UINT64_C(0x9e3779b97f4a7c15);
  return &environment->mappings[hash >> (64 - MAPPING_BUCKETS_LOG2)];
}

struct mapping *find_mapping(napi_env env, napi_value buffer, size_t *byte_length) {
  void *start = NULL;
  struct environment *environment = environment_of(env);
  if (napi_get_arraybuffer_info(env, buffer, &start, byte_length) != napi_ok) {
    throw_type_error(env, "mapping must be an ArrayBuffer");
    return NULL;
  }
  if (start != NULL && environment != NULL) {
    // Memory that is still mapped belongs to one mapping, so the address identifies it. The memory is not accessed.
    for (struct mapping *mapping = *bucket_of(environment, start); mapping != NULL; mapping = mapping->next) {
      if (mapping->start == start) return mapping;
    }
  }
  throw_type_error(env, "mapping must be an ArrayBuffer made by mapSegment or mapPrivate, and not detached");
  return NULL;
}

static void remove_mapping(napi_env env, const struct mapping *mapping) {
  struct environment *environment = environment_of(env);
  if (environment == NULL) return;
  for (struct mapping **link = bucket_of(environment, mapping->start); *link != NULL; link = &(*link)->next) {
    if (*link != mapping) continue;
    *link = mapping->next;
    return;
  }
}

void drop_part(napi_env env, struct mapping *mapping) {
  if (--mapping->parts > 0) return;
  // Removed before it is unmapped, because another thread may map the same address right afterwards.
  remove_mapping(env, mapping);
  if (mapping->is_large) {
    unmap_apart(mapping->address, mapping->mapped_bytes);
  } else {
    munmap(mapping->address, mapping->mapped_bytes);
  }
  free(mapping);
  atomic_fetch_sub_explicit(&live_mappings, 1, memory_order_relaxed);
}

napi_value mapping_count(napi_env env, napi_callback_info info) {
  (void)info;
  return make_integer(env, atomic_load_explicit(&live_mappings, memory_order_relaxed));
}

napi_value make_part_buffer(napi_env env, struct mapping *mapping, char *start, size_t byte_length,
                            napi_finalize finalise, void *hint, bool *will_finalise) {
  mapping->parts++;
  napi_value buffer;
  napi_status status = napi_create_external_arraybuffer(env, start, byte_length, finalise, hint, &buffer);
  *will_finalise = status == napi_ok || status == napi_generic_failure;
  if (status == napi_ok) return buffer;
  if (status == napi_no_external_buffers_allowed) {
    napi_throw_error(env, "ERR_NO_EXTERNAL_BUFFERS",
                     "this runtime does not allow ArrayBuffers over memory of its embedder (pointer compression or "
                     "the V8 sandbox, as in Electron): shared memory cannot be used");
    return NULL;
  }
  return throw_napi_failure(env, "napi_create_external_arraybuffer");
}

static void on_whole_freed(napi_env env, void *data, void *hint) {
  (void)data;
  drop_part(env, hint);
}

napi_value make_mapping_buffer(napi_env env, struct mapping *mapping, size_t byte_length) {
  struct environment *environment = environment_of(env);
  atomic_fetch_add_explicit(&live_mappings, 1, memory_order_relaxed);
  mapping->parts = 0;
  mapping->next = NULL;
  if (environment != NULL) {
    struct mapping **bucket = bucket_of(environment, mapping->start);
    mapping->next = *bucket;
    *bucket = mapping;
  }
  return show_mapping(env, mapping, byte_length);
}

napi_value show_mapping(napi_env env, struct mapping *mapping, size_t byte_length) {
  bool will_finalise;
  napi_value buffer =
      make_part_buffer(env, mapping, mapping->start, byte_length, on_whole_freed, mapping, &will_finalise);
  if (!will_finalise) drop_part(env, mapping);
  return buffer;
}
