// The mapped memory behind ArrayBuffers. A mapping lives until the last backing store over any part of it is gone: the
// store of the mapping's own ArrayBuffer counts as one part, the store of each view (view.c) as another.
//
// What this relies on, the same in Node 20 to 26, is how napi_create_external_arraybuffer treats its finaliser:
//
// - It belongs to the backing store, not to the ArrayBuffer: it runs when the store is gone, which is after the buffer
//   was collected or detached. transfer() moves the store to another ArrayBuffer, and the finaliser goes with it.
// - It runs once, on the environment's own thread, never inside of the garbage collector or of a detach, but as an
//   immediate of a later turn. Waiting for it does not keep the event loop alive.
// - When the environment ends, it runs for all stores that are left. JavaScript cannot be called any more by then, and
//   Node-API's calls say so. Buffers are detached first; one that came out of transfer() is not, but nothing runs that
//   could touch it.
// - If the call fails with napi_generic_failure, the finaliser has run or is going to. After any other failure it is
//   not.

#pragma once

#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct mapping {
  char *address;  // of its first page
  size_t mapped_bytes;
  char *start;  // of its ArrayBuffer: inside the first page
  size_t parts;
  // Of the file, for seal_region.
  dev_t device;
  ino_t inode;
  bool is_whole_segment;  // shared, writable, without mirror
  struct mapping *next;   // with the same hash
};

// Wraps the mapping into an ArrayBuffer from `start` to its end, and from there on belongs to that. Takes `mapping`
// (from malloc) and what is mapped also when it fails; then throws and returns NULL.
napi_value make_mapping_buffer(napi_env env, struct mapping *mapping, size_t byte_length);

// An ArrayBuffer over a part of a mapping. Takes one part, which `finalise` has to drop with drop_part. Throws and
// returns NULL if it fails; if `will_finalise` is false then, the caller drops the part and what `hint` is.
napi_value make_part_buffer(napi_env env, struct mapping *mapping, char *start, size_t byte_length,
                            napi_finalize finalise, void *hint, bool *will_finalise);

void drop_part(napi_env env, struct mapping *mapping);

// The mapping that this ArrayBuffer is over, from its first byte, and the buffer's length. NULL after it has thrown:
// not an ArrayBuffer, detached, or not over one of this environment's mappings.
struct mapping *find_mapping(napi_env env, napi_value buffer, size_t *byte_length);
