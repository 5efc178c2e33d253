// Creates, connects and closes Unix stream sockets. All are created non-blocking and close-on-exec.

#include "arguments.h"
#include "closing.h"
#include "descriptors.h"
#include "errors.h"
#include "functions.h"
#include "headroom.h"
#include "receiving.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static bool read_address(napi_env env, napi_value value, const char *syscall, struct sockaddr_un *address) {
  const size_t path_bytes_max = sizeof address->sun_path - 1;
  char path[PATH_BYTES];
  size_t byte_length;
  if (!read_path(env, value, syscall, path, &byte_length)) return false;
  if (byte_length > path_bytes_max) {
    throw_explained_error(env, ENAMETOOLONG, syscall, "%s to %s: the path has %zu bytes, the limit of a socket's is %zu",
                          syscall, path, byte_length, path_bytes_max);
    return false;
  }
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, path, byte_length);
  return true;
}

static int open_socket(void) { return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

napi_value connect_socket(napi_env env, napi_callback_info info) {
  napi_value value;
  struct sockaddr_un address;
  if (!read_arguments(env, info, 1, &value) || !read_address(env, value, "connect", &address)) return NULL;

  int fd = open_socket();
  if (fd < 0) return throw_system_error(env, errno, "socket", "connect to %s", address.sun_path);
  int failed;
  do {
    failed = connect(fd, (const struct sockaddr *)&address, sizeof address);
  } while (failed != 0 && errno == EINTR);
  if (failed != 0) {
    int error = errno;
    close(fd);
    return throw_system_error(env, error, "connect", "connect to %s", address.sun_path);
  }
  deliver_in_line(fd);
  return hand_out_descriptor(env, fd);
}

napi_value bind_socket(napi_env env, napi_callback_info info) {
  napi_value values[3];
  struct sockaddr_un address;
  int64_t mode;
  double group;
  if (!read_arguments(env, info, 3, values) || !read_address(env, values[0], "bind", &address) ||
      !read_integer_up_to(env, values[1], "mode", 0777, &mode)) {
    return NULL;
  }
  if (napi_get_value_double(env, values[2], &group) != napi_ok) return throw_type_error(env, "gid must be a number");
  if (!(group >= -1 && group < (double)UINT32_MAX) || group != (double)(int64_t)group) {
    return throw_range_error(env, "gid must be -1 or a group's number; got %.17g", group);
  }

  int fd = open_socket();
  if (fd < 0) return throw_system_error(env, errno, "socket", "bind to %s", address.sun_path);

  // SUBTLE: the permissions must never be wider than requested, not even for an instant. The bound file takes its mode
  // from the socket's own, less the umask; but its group is the process's, even after an fchown. So the file is created
  // for its owner only, then it gets its group, and its mode last. The umask cannot be changed, because all threads
  // share it.
  const char *failed = NULL;
  bool bound = false;
  if (fchmod(fd, (mode_t)mode & 0700) != 0) {
    failed = "fchmod";
  } else if (bind(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
    failed = "bind";
  } else {
    bound = true;
    if (group >= 0 && lchown(address.sun_path, (uid_t)-1, (gid_t)group) != 0) {
      failed = "chown";
    } else if (chmod(address.sun_path, (mode_t)mode) != 0) {
      failed = "chmod";
    }
  }
  if (failed != NULL) {
    int error = errno;
    if (bound) unlink(address.sun_path);
    close(fd);
    return throw_system_error(env, error, failed, "%s to %s", bound ? "bind (set mode and group)" : "bind",
                              address.sun_path);
  }
  return hand_out_descriptor(env, fd);
}

napi_value listen_socket(napi_env env, napi_callback_info info) {
  napi_value values[2];
  int fd;
  int64_t backlog;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], &fd) ||
      !read_integer_up_to(env, values[1], "backlog", INT32_MAX, &backlog)) {
    return NULL;
  }
  if (listen(fd, (int)backlog) != 0) return throw_system_error(env, errno, "listen", "listen on descriptor %d", fd);
  return NULL;
}

napi_value accept_socket(napi_env env, napi_callback_info info) {
  napi_value value;
  int fd;
  if (!read_arguments(env, info, 1, &value) || !read_descriptor(env, value, &fd)) return NULL;
  check_headroom();
  int accepted;
  do {
    accepted = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  } while (accepted < 0 && errno == EINTR);
  if (accepted >= 0) {
    deliver_in_line(accepted);
    return hand_out_descriptor(env, accepted);
  }
  if (errno == EAGAIN || errno == ECONNABORTED) return make_integer(env, -1);
  return throw_system_error(env, errno, "accept", "accept a connection on descriptor %d", fd);
}

napi_value shutdown_socket(napi_env env, napi_callback_info info) {
  napi_value value;
  int fd;
  if (!read_arguments(env, info, 1, &value) || !read_descriptor(env, value, &fd)) return NULL;
  if (shutdown(fd, SHUT_RDWR) != 0 && errno != ENOTCONN) {
    return throw_system_error(env, errno, "shutdown", "shut down descriptor %d", fd);
  }
  return NULL;
}

napi_value duplicate_descriptor(napi_env env, napi_callback_info info) {
  napi_value value;
  int fd;
  if (!read_arguments(env, info, 1, &value) || !read_descriptor(env, value, &fd)) return NULL;
  int duplicate = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (duplicate < 0) return throw_system_error(env, errno, "fcntl", "duplicate descriptor %d", fd);
  return hand_out_descriptor(env, duplicate);
}

napi_value close_descriptor(napi_env env, napi_callback_info info) {
  napi_value value;
  int fd;
  if (!read_arguments(env, info, 1, &value) || !read_descriptor(env, value, &fd)) return NULL;
  bool foreign = is_foreign_descriptor(env, fd);
  // This includes a descriptor that was closed before: its number may belong to another thread's file by now.
  if (!take_back_descriptor(env, fd)) {
    return throw_explained_error(env, EBADF, "close", "close descriptor %d: this thread does not hold it", fd);
  }
  if (!close_apart(fd, foreign)) return throw_system_error(env, errno, "close", "close descriptor %d", fd);
  return NULL;
}

napi_value count_closes(napi_env env, napi_callback_info info) {
  (void)info;
  return make_integer(env, closes_under_way());
}

napi_value refuse_descriptors(napi_env env, napi_callback_info info) {
  napi_value values[2], result;
  int fd;
  bool refuses;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], &fd) ||
      !read_boolean(env, values[1], "refuses", &refuses)) {
    return NULL;
  }
  bool is_set = set_refuses_descriptors(fd, refuses);
  return napi_get_boolean(env, is_set, &result) == napi_ok ? result : NULL;
}
