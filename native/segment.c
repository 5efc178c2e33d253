// Creates, seals and inspects shared files, and commits and returns their pages. Mapping is in mapping.c.
//
// Some calls go through syscall(2), because the C library's functions for them are newer than GLIBC_2.17: memfd_create
// (2.27) and, if compiled on a recent system, fstat (2.33).

#include "arguments.h"
#include "descriptors.h"
#include "errors.h"
#include "functions.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

// Values of the kernel's ABI, some of which older headers lack.
enum {
  MEMFD_CLOEXEC = 0x1,
  MEMFD_ALLOW_SEALING = 0x2,
  MEMFD_NOEXEC_SEAL = 0x8,  // Linux 6.3
  ADD_SEALS = 1033,
  GET_SEALS = 1034,
  PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01,
};
static const long HUGETLBFS = 0x958458f6;

static int open_memfd(const char *name) {
  const unsigned int flags = MEMFD_CLOEXEC | MEMFD_ALLOW_SEALING;
  int fd = (int)syscall(SYS_memfd_create, name, flags | MEMFD_NOEXEC_SEAL);
  // A name that is too long is EINVAL too. Then the second attempt reports it.
  return fd < 0 && errno == EINVAL ? (int)syscall(SYS_memfd_create, name, flags) : fd;
}

napi_value create_segment(napi_env env, napi_callback_info info) {
  napi_value values[2];
  char name[PATH_BYTES];
  size_t name_length;
  int64_t byte_length;
  if (!read_arguments(env, info, 2, values) || !read_path(env, values[0], "memfd_create", name, &name_length) ||
      !read_integer(env, values[1], "byteLength", &byte_length)) {
    return NULL;
  }

  int fd = open_memfd(name);
  if (fd < 0) return throw_system_error(env, errno, "memfd_create", "memfd_create of %s", name);

  const char *failed = NULL;
  if (ftruncate(fd, byte_length) != 0) {
    failed = "ftruncate";
  } else if (fchmod(fd, 0600) != 0) {
    failed = "fchmod";
  }
  if (failed != NULL) {
    int error = errno;
    close(fd);
    return throw_system_error(env, error, failed, "%s of segment %s with %lld bytes", failed, name,
                              (long long)byte_length);
  }

  return hand_out_descriptor(env, fd);
}

napi_value seal_segment(napi_env env, napi_callback_info info) {
  napi_value values[2];
  int fd;
  int64_t seals;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], &fd) ||
      !read_integer_up_to(env, values[1], "seals", INT32_MAX, &seals)) {
    return NULL;
  }
  if (fcntl(fd, ADD_SEALS, (int)seals) != 0) {
    return throw_system_error(env, errno, "fcntl", "seal descriptor %d with 0x%x", fd, (int)seals);
  }
  return NULL;
}

napi_value inspect_segment(napi_env env, napi_callback_info info) {
  napi_value value;
  int fd;
  if (!read_arguments(env, info, 1, &value) || !read_descriptor(env, value, &fd)) return NULL;

  // Seals are read first. They are never removed, so with SHRINK among them, the length read afterwards is final.
  int seals = fcntl(fd, GET_SEALS);
  if (seals < 0) {
    if (errno == EINVAL) {
      return throw_explained_error(env, EINVAL, "fcntl", "inspect descriptor %d: it is not a memfd", fd);
    }
    return throw_system_error(env, errno, "fcntl", "read the seals of descriptor %d", fd);
  }

  struct statfs file_system;
  if (fstatfs(fd, &file_system) != 0) {
    return throw_system_error(env, errno, "fstatfs", "inspect descriptor %d", fd);
  }
  // Pages of hugetlbfs have another size, and may be missing at the first touch, which raises SIGBUS.
  if (file_system.f_type == HUGETLBFS) {
    return throw_explained_error(env, EINVAL, "fstatfs", "inspect descriptor %d: hugetlbfs is refused", fd);
  }

  struct stat status;
  if (syscall(SYS_fstat, fd, &status) != 0) {
    return throw_system_error(env, errno, "fstat", "inspect descriptor %d", fd);
  }
  if (!S_ISREG(status.st_mode)) {
    return throw_explained_error(env, EINVAL, "fstat", "inspect descriptor %d: it is not a regular file", fd);
  }

  napi_value result;
  if (napi_create_object(env, &result) != napi_ok) return throw_napi_failure(env, "napi_create_object");
  if (!set_integer(env, result, "seals", seals) || !set_integer(env, result, "byteLength", status.st_size) ||
      !set_integer(env, result, "allocatedBytes", (int64_t)status.st_blocks * 512)) {
    return NULL;
  }
  return result;
}

// fallocate(2) on the range that the three arguments name.
static napi_value allocate(napi_env env, napi_callback_info info, int mode, const char *what) {
  napi_value values[3];
  int fd;
  int64_t offset, byte_length;
  if (!read_arguments(env, info, 3, values) || !read_descriptor(env, values[0], &fd) ||
      !read_integer(env, values[1], "offset", &offset) || !read_integer(env, values[2], "byteLength", &byte_length)) {
    return NULL;
  }
  int failed;
  do {
    failed = fallocate(fd, mode, offset, byte_length);
  } while (failed != 0 && errno == EINTR);
  if (failed != 0) {
    return throw_system_error(env, errno, "fallocate", "%s %lld bytes at %lld of descriptor %d", what,
                              (long long)byte_length, (long long)offset, fd);
  }
  return NULL;
}

napi_value commit_pages(napi_env env, napi_callback_info info) { return allocate(env, info, 0, "commit"); }

napi_value return_pages(napi_env env, napi_callback_info info) {
  return allocate(env, info, PUNCH_HOLE_KEEP_SIZE, "return");
}
