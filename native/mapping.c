// Segments mapped into this process, as external ArrayBuffers.
//
//   address                 + byteLength              + mirrorByteLength
//   |  the file, from byte 0 |  the file's last bytes  |
//   |                        |  (the mirror)           |
//
// With a ring at the file's end, a frame that runs past the end goes on in the mirror: it is always contiguous.
//
// A mapping belongs to its backing store: V8 calls the finaliser when the last ArrayBuffer over it is gone (collected,
// or detached), and the finaliser unmaps. Nobody else does.

#include "arguments.h"
#include "errors.h"
#include "functions.h"
#include "headroom.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

// SUBTLE: above buffer.constants.MAX_LENGTH (2^32 on Node 20) Node throws and runs the finaliser itself, and the
// failure path below would unmap a second time, perhaps somebody else's new mapping. So the length stays below.
static const int64_t MAPPED_BYTES_MAX = UINT32_MAX;

static void unmap(napi_env env, void *address, void *hint) {
  (void)env;
  munmap(address, (size_t)(uintptr_t)hint);
}

// Both parts, or MAP_FAILED with errno set and nothing left mapped.
static void *map_with_mirror(int fd, size_t byte_length, size_t mirror_byte_length, int protection) {
  // Reserve the whole range first, so that the second mapping's place is surely ours to map over.
  size_t whole = byte_length + mirror_byte_length;
  char *address = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) return MAP_FAILED;
  const int flags = MAP_SHARED | MAP_FIXED;
  if (mmap(address, byte_length, protection, flags, fd, 0) == MAP_FAILED ||
      (mirror_byte_length > 0 && mmap(address + byte_length, mirror_byte_length, protection, flags, fd,
                                      (off_t)(byte_length - mirror_byte_length)) == MAP_FAILED)) {
    int error = errno;
    munmap(address, whole);
    errno = error;
    return MAP_FAILED;
  }
  return address;
}

napi_value map_segment(napi_env env, napi_callback_info info) {
  napi_value values[4];
  int fd;
  int64_t byte_length, mirror_byte_length;
  bool writable;
  if (!read_arguments(env, info, 4, values) || !read_descriptor(env, values[0], &fd) ||
      !read_integer_up_to(env, values[1], "byteLength", MAPPED_BYTES_MAX, &byte_length) ||
      !read_integer_up_to(env, values[2], "mirrorByteLength", MAPPED_BYTES_MAX, &mirror_byte_length) ||
      !read_boolean(env, values[3], "writable", &writable)) {
    return NULL;
  }
  long page_bytes = sysconf(_SC_PAGESIZE);
  if (byte_length == 0 || byte_length % page_bytes != 0 || mirror_byte_length % page_bytes != 0) {
    return throw_range_error(env,
                             "byteLength and mirrorByteLength must be multiples of the page size %ld, and byteLength "
                             "not 0; got %lld and %lld",
                             page_bytes, (long long)byte_length, (long long)mirror_byte_length);
  }
  if (mirror_byte_length > byte_length || byte_length + mirror_byte_length > MAPPED_BYTES_MAX) {
    return throw_range_error(env, "a mirror of %lld bytes does not fit a segment of %lld bytes (together below 4 GiB)",
                             (long long)mirror_byte_length, (long long)byte_length);
  }

  int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void *address = MAP_FAILED;
  if (hold_headroom()) address = map_with_mirror(fd, (size_t)byte_length, (size_t)mirror_byte_length, protection);
  if (address == MAP_FAILED) {
    int error = errno;
    if (error == ENOMEM) give_headroom();
    return throw_system_error(env, error, "mmap", "map %lld bytes of descriptor %d %s",
                              (long long)(byte_length + mirror_byte_length), fd, writable ? "writable" : "read-only");
  }

  size_t whole = (size_t)(byte_length + mirror_byte_length);
  napi_value buffer;
  napi_status status =
      napi_create_external_arraybuffer(env, address, whole, unmap, (void *)(uintptr_t)whole, &buffer);
  if (status == napi_ok) return buffer;
  munmap(address, whole);
  if (status == napi_no_external_buffers_allowed) {
    napi_throw_error(env, "ERR_NO_EXTERNAL_BUFFERS",
                     "this runtime does not allow ArrayBuffers over memory of its embedder (pointer compression or "
                     "the V8 sandbox, as in Electron): shared memory cannot be used");
    return NULL;
  }
  return throw_napi_failure(env, "napi_create_external_arraybuffer");
}

napi_value detach_mapping(napi_env env, napi_callback_info info) {
  napi_value buffer;
  if (!read_arguments(env, info, 1, &buffer)) return NULL;
  bool is_buffer = false;
  bool is_detached = false;
  if (napi_is_arraybuffer(env, buffer, &is_buffer) != napi_ok || !is_buffer) {
    return throw_type_error(env, "buffer must be an ArrayBuffer");
  }
  if (napi_is_detached_arraybuffer(env, buffer, &is_detached) == napi_ok && is_detached) return NULL;
  if (napi_detach_arraybuffer(env, buffer) != napi_ok) {
    return throw_type_error(env, "this ArrayBuffer cannot be detached");
  }
  return NULL;
}

napi_value page_size(napi_env env, napi_callback_info info) {
  (void)info;
  return make_integer(env, sysconf(_SC_PAGESIZE));
}
