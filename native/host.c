// What a process needs from its host in addition to memory and sockets.

#include "arguments.h"
#include "descriptors.h"
#include "errors.h"
#include "functions.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// Whether `path` is still the file that `fd` refers to. Its previous holder may have removed it.
static bool is_at(const char *path, int fd) {
  struct stat open_file, named;
  return syscall(SYS_fstat, fd, &open_file) == 0 && syscall(SYS_newfstatat, AT_FDCWD, path, &named, 0) == 0 &&
         open_file.st_dev == named.st_dev && open_file.st_ino == named.st_ino;
}

napi_value lock_file(napi_env env, napi_callback_info info) {
  napi_value value;
  char path[PATH_BYTES];
  size_t byte_length;
  if (!read_arguments(env, info, 1, &value) || !read_path(env, value, "open", path, &byte_length)) return NULL;

  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (fd < 0) return throw_system_error(env, errno, "open", "open the lock %s", path);
  // The umask may have taken the owner's rights too. It fails for the file of another user.
  (void)fchmod(fd, 0600);
  int failed;
  do {
    failed = flock(fd, LOCK_EX | LOCK_NB);
  } while (failed != 0 && errno == EINTR);
  if (failed == 0 && is_at(path, fd)) return hand_out_descriptor(env, fd);
  int error = failed == 0 ? EWOULDBLOCK : errno;
  close(fd);
  if (error == EWOULDBLOCK) return make_integer(env, -1);
  return throw_system_error(env, error, "flock", "lock %s", path);
}

napi_value yield_thread(napi_env env, napi_callback_info info) {
  (void)env;
  (void)info;
  // Cannot fail on Linux.
  sched_yield();
  return NULL;
}

napi_value current_cpu(napi_env env, napi_callback_info info) {
  (void)info;
  // Returns -1 if the kernel does not have the call. No CPU has that number, so no core seems to be shared then.
  return make_integer(env, sched_getcpu());
}

napi_value open_spare(napi_env env, napi_callback_info info) {
  (void)info;
  // The descriptor only takes a place in the table. "/" exists in every namespace, but /dev/null does not.
  int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return throw_system_error(env, errno, "open", "open a spare descriptor");
  return hand_out_descriptor(env, fd);
}

// Returns the set, which the caller frees, or NULL with errno set. The set must be at least as large as the kernel's,
// whose size can only be found by trying.
static cpu_set_t *read_affinity(int *cpu_count, size_t *set_bytes) {
  enum { CPUS_MAX = 1 << 20 };
  for (*cpu_count = 1024; *cpu_count <= CPUS_MAX; *cpu_count *= 2) {
    *set_bytes = CPU_ALLOC_SIZE((size_t)*cpu_count);
    // Not CPU_ALLOC, which is a function of glibc alone.
    cpu_set_t *set = calloc(1, *set_bytes);
    if (set == NULL) {
      errno = ENOMEM;
      return NULL;
    }
    if (sched_getaffinity(0, *set_bytes, set) == 0) return set;
    int error = errno;
    free(set);
    errno = error;
    if (error != EINVAL) return NULL;
  }
  return NULL;
}

napi_value affinity(napi_env env, napi_callback_info info) {
  (void)info;
  int cpu_count;
  size_t set_bytes;
  cpu_set_t *set = read_affinity(&cpu_count, &set_bytes);
  if (set == NULL) return throw_system_error(env, errno, "sched_getaffinity", "read the CPUs of this thread");

  napi_value list, number;
  napi_status status = napi_create_array(env, &list);
  uint32_t length = 0;
  for (int cpu = 0; cpu < cpu_count && status == napi_ok; cpu++) {
    if (!CPU_ISSET_S((size_t)cpu, set_bytes, set)) continue;
    status = napi_create_int32(env, cpu, &number);
    if (status == napi_ok) status = napi_set_element(env, list, length++, number);
  }
  free(set);
  return status == napi_ok ? list : throw_napi_failure(env, "napi_set_element");
}

napi_value adjust_external_memory(napi_env env, napi_callback_info info) {
  napi_value value;
  int64_t change, now;
  if (!read_arguments(env, info, 1, &value)) return NULL;
  if (napi_get_value_int64(env, value, &change) != napi_ok) return throw_type_error(env, "change must be a number");
  if (napi_adjust_external_memory(env, change, &now) != napi_ok) {
    return throw_napi_failure(env, "napi_adjust_external_memory");
  }
  return make_integer(env, now);
}
