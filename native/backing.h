// The mapped memory of ArrayBuffers. A mapping lives until the last backing store over any part of it is gone. The
// store of the mapping's own ArrayBuffer counts as one part, and the store of each view (view.c) as another.
//
// This relies on how napi_create_external_arraybuffer treats its finaliser, which is the same in Node 20 to 26:
//
// - The finaliser belongs to the backing store, not to the ArrayBuffer. It runs when the store is gone, which is after
//   the buffer was collected or detached. transfer() moves the store, and with it the finaliser, to another
//   ArrayBuffer.
// - It runs once, on the environment's own thread, as an immediate of a later turn, and never within the garbage
//   collector or a detach. It does not keep the event loop alive.
// - When the environment ends, it runs for all remaining stores. By then JavaScript cannot be called any more, and
//   Node-API's calls report that. Buffers are detached before. A buffer made by transfer() is not, but no code runs any
//   more that could touch it.
// - If the call fails with napi_generic_failure, the finaliser has run or will run. After any other failure it will
//   not.

#pragma once

#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct mapping {
  char *address;  // of the first page
  size_t mapped_bytes;
  char *start;  // of the ArrayBuffer, within the first page
  size_t parts;
  // Identify the file, for seal_region.
  dev_t device;
  ino_t inode;
  bool is_whole_segment;  // shared, writable, without mirror
  bool is_large;          // of a memfd whose pages take long to free
  struct mapping *next;   // with the same hash
};

// Makes the ArrayBuffer of a mapping, over `byte_length` bytes from `start`. `mapping` (from malloc) and its memory belong to the
// ArrayBuffer from now on. If this fails, it frees both, throws and returns NULL.
napi_value make_mapping_buffer(napi_env env, struct mapping *mapping, size_t byte_length);

// Makes another ArrayBuffer over the first bytes of a mapping. If this fails, it throws and returns NULL.
napi_value show_mapping(napi_env env, struct mapping *mapping, size_t byte_length);

// Makes an ArrayBuffer over a part of a mapping. This adds a part, which `finalise` has to drop with drop_part. If it
// fails, it throws and returns NULL. If `will_finalise` is false then, the caller drops the part and frees `hint`.
napi_value make_part_buffer(napi_env env, struct mapping *mapping, char *start, size_t byte_length,
                            napi_finalize finalise, void *hint, bool *will_finalise);

void drop_part(napi_env env, struct mapping *mapping);

// Finds the mapping whose start is the ArrayBuffer's first byte, and the buffer's length. Throws and returns NULL if
// `buffer` is not an ArrayBuffer, is detached, or is not over one of this environment's mappings.
struct mapping *find_mapping(napi_env env, napi_value buffer, size_t *byte_length);
