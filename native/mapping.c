// Maps files into this process, as external ArrayBuffers. backing.h says how long a mapping lives.
//
//   address                 + byteLength              + mirrorByteLength
//   |  the file, from byte 0 |  the file's last bytes  |
//   |                        |  (the mirror)           |
//
// With a ring at the file's end, a frame that passes the end continues in the mirror, so every frame is contiguous.

#include "arguments.h"
#include "backing.h"
#include "closing.h"
#include "errors.h"
#include "functions.h"
#include "headroom.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// Values of the kernel's ABI, which older headers lack.
enum {
  ADD_SEALS = 1033,
  SEAL_SEAL = 0x1,
  SEAL_SHRINK = 0x2,
  SEAL_GROW = 0x4,
  SEAL_WRITE = 0x8,
};

// buffer.constants.MAX_LENGTH is 2^32 on Node 20.
static const int64_t MAPPED_BYTES_MAX = UINT32_MAX;

// Called by number, because the C library's fstat is newer than GLIBC_2.17 if compiled on a recent system.
static int status_of(int fd, struct stat *status) { return (int)syscall(SYS_fstat, fd, status); }

// Whether unmapping the file may free a large memfd, because it is the last reference to it.
static bool frees_much(int fd) {
  int seals;
  struct stat status;
  return is_memory_file(fd, &seals) && status_of(fd, &status) == 0 && status.st_size > LARGE_FILE_BYTES;
}

// Maps both parts. Returns MAP_FAILED, with errno set and nothing left mapped, if that fails.
static void *map_with_mirror(int fd, size_t byte_length, size_t mirror_byte_length, int protection) {
  // Reserve the whole range first, so that the place of the second mapping certainly belongs to us.
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
  int64_t whole = byte_length + mirror_byte_length;
  if (mirror_byte_length > byte_length || whole > MAPPED_BYTES_MAX) {
    return throw_range_error(env, "a mirror of %lld bytes does not fit a segment of %lld bytes (together below 4 GiB)",
                             (long long)mirror_byte_length, (long long)byte_length);
  }

  struct mapping *mapping = calloc(1, sizeof *mapping);
  if (mapping == NULL) return throw_system_error(env, ENOMEM, "calloc", "map descriptor %d", fd);
  int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void *address = MAP_FAILED;
  if (hold_headroom()) address = map_with_mirror(fd, (size_t)byte_length, (size_t)mirror_byte_length, protection);
  if (address == MAP_FAILED) {
    int error = errno;
    free(mapping);
    if (error == ENOMEM) give_headroom();
    return throw_system_error(env, error, "mmap", "map %lld bytes of descriptor %d %s", (long long)whole, fd,
                              writable ? "writable" : "read-only");
  }
  *mapping = (struct mapping){.address = address, .start = address, .mapped_bytes = (size_t)whole, .is_large = frees_much(fd)};
  struct stat status;
  if (writable && mirror_byte_length == 0 && status_of(fd, &status) == 0 && status.st_size == byte_length) {
    mapping->is_whole_segment = true;
    mapping->device = status.st_dev;
    mapping->inode = status.st_ino;
  }
  return make_mapping_buffer(env, mapping, (size_t)whole);
}

napi_value map_in_advance(napi_env env, napi_callback_info info) {
  napi_value values[3];
  int fd;
  int64_t byte_length, shown_bytes;
  if (!read_arguments(env, info, 3, values) || !read_descriptor(env, values[0], &fd) ||
      !read_integer_up_to(env, values[1], "byteLength", MAPPED_BYTES_MAX, &byte_length) ||
      !read_integer_up_to(env, values[2], "shownBytes", byte_length, &shown_bytes)) {
    return NULL;
  }
  if (shown_bytes == 0) return throw_range_error(env, "shownBytes must not be 0");
  struct mapping *mapping = calloc(1, sizeof *mapping);
  if (mapping == NULL) return throw_system_error(env, ENOMEM, "calloc", "map descriptor %d", fd);
  void *address = MAP_FAILED;
  if (hold_headroom()) address = mmap(NULL, (size_t)byte_length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) {
    int error = errno;
    free(mapping);
    if (error == ENOMEM) give_headroom();
    return throw_system_error(env, error, "mmap", "map %lld bytes of descriptor %d writable", (long long)byte_length,
                              fd);
  }
  *mapping = (struct mapping){
      .address = address, .start = address, .mapped_bytes = (size_t)byte_length, .is_large = frees_much(fd)};
  return make_mapping_buffer(env, mapping, (size_t)shown_bytes);
}

napi_value show_more(napi_env env, napi_callback_info info) {
  napi_value values[2];
  size_t shown_bytes;
  int64_t byte_length;
  if (!read_arguments(env, info, 2, values)) return NULL;
  struct mapping *mapping = find_mapping(env, values[0], &shown_bytes);
  if (mapping == NULL) return NULL;
  int64_t maximum = (int64_t)mapping->mapped_bytes - (mapping->start - mapping->address);
  if (!read_integer_up_to(env, values[1], "byteLength", maximum, &byte_length)) return NULL;
  if (byte_length == 0) return throw_range_error(env, "byteLength must not be 0");
  return show_mapping(env, mapping, (size_t)byte_length);
}

napi_value map_private(napi_env env, napi_callback_info info) {
  napi_value values[3];
  int fd;
  int64_t offset, byte_length;
  if (!read_arguments(env, info, 3, values) || !read_descriptor(env, values[0], &fd) ||
      !read_integer(env, values[1], "offset", &offset) ||
      !read_integer_up_to(env, values[2], "byteLength", MAPPED_BYTES_MAX, &byte_length)) {
    return NULL;
  }
  if (byte_length == 0) return throw_range_error(env, "byteLength must not be 0");
  struct stat status;
  if (status_of(fd, &status) != 0) return throw_system_error(env, errno, "fstat", "map descriptor %d", fd);
  if (!S_ISREG(status.st_mode)) {
    return throw_explained_error(env, EINVAL, "fstat", "map descriptor %d: it is not a regular file", fd);
  }
  // Both below 2^53, so the sum does not overflow.
  if (offset + byte_length > status.st_size) {
    return throw_explained_error(env, EINVAL, "mmap", "map %lld bytes at %lld of descriptor %d: the file has %lld bytes",
                                 (long long)byte_length, (long long)offset, fd, (long long)status.st_size);
  }

  struct mapping *mapping = calloc(1, sizeof *mapping);
  if (mapping == NULL) return throw_system_error(env, ENOMEM, "calloc", "map descriptor %d", fd);
  int64_t skipped = offset % sysconf(_SC_PAGESIZE);
  size_t mapped_bytes = (size_t)(skipped + byte_length);
  char *address = MAP_FAILED;
  if (hold_headroom()) {
    address = mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, offset - skipped);
  }
  if (address == MAP_FAILED) {
    int error = errno;
    free(mapping);
    if (error == ENOMEM) give_headroom();
    return throw_system_error(env, error, "mmap", "map %lld bytes at %lld of descriptor %d privately",
                              (long long)byte_length, (long long)offset, fd);
  }
  *mapping = (struct mapping){
      .address = address, .start = address + skipped, .mapped_bytes = mapped_bytes, .is_large = frees_much(fd)};
  return make_mapping_buffer(env, mapping, (size_t)byte_length);
}

// Maps the whole segment again at the address where it is mapped. The kernel lets no other mapping in between.
static bool map_over(const struct mapping *mapping, int fd, int flags) {
  return mmap(mapping->address, mapping->mapped_bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) != MAP_FAILED;
}

napi_value seal_region(napi_env env, napi_callback_info info) {
  napi_value values[2];
  int fd;
  size_t byte_length;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], &fd)) return NULL;
  struct mapping *mapping = find_mapping(env, values[1], &byte_length);
  if (mapping == NULL) return NULL;
  if (!mapping->is_whole_segment || byte_length != mapping->mapped_bytes) {
    return throw_type_error(env, "mapping must be writable, of the whole segment, without mirror, and not sealed yet");
  }
  struct stat status;
  if (status_of(fd, &status) != 0) return throw_system_error(env, errno, "fstat", "seal descriptor %d", fd);
  if (status.st_dev != mapping->device || status.st_ino != mapping->inode) {
    return throw_type_error(env, "mapping is not of descriptor %d", fd);
  }

  // The private mapping has the file's pages until the first store. The shared, writable one would make the seal fail.
  const char *failed = "mmap";
  bool replaced = hold_headroom() && map_over(mapping, fd, MAP_PRIVATE | MAP_NORESERVE);
  if (replaced) {
    failed = "fcntl";
    if (fcntl(fd, ADD_SEALS, SEAL_WRITE | SEAL_SHRINK | SEAL_GROW | SEAL_SEAL) == 0) {
      mapping->is_whole_segment = false;
      return NULL;
    }
  }
  int error = errno;
  // Restore the shared mapping in any case: a failed mmap may have left a hole.
  bool restored = map_over(mapping, fd, MAP_SHARED);
  if (!restored) mapping->is_whole_segment = false;
  if (error == ENOMEM) give_headroom();
  return throw_system_error(env, error, failed, "seal descriptor %d against writing, with the mapping %s", fd,
                            restored   ? "as it was before"
                            : replaced ? "now a private copy"
                                       : "lost, so that a touch raises SIGSEGV");
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
