// The process at the other end of a socket: its credentials and its namespaces.

#include "arguments.h"
#include "errors.h"
#include "functions.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// Values of the kernel's ABI, which older headers lack.
enum {
  PEERPIDFD = 77,     // Linux 6.5
  PIDFD_OPEN = 434,  // Linux 5.3
};

// The namespaces that decide which processes see each other's memory and files. `request` asks a pidfd for a
// descriptor of the namespace (Linux 6.11).
static const struct {
  const char *name;
  unsigned long request;
} NAMESPACES[] = {{"user", _IO(0xff, 9)}, {"pid", _IO(0xff, 5)}, {"mnt", _IO(0xff, 3)}};

enum { NAMESPACE_COUNT = sizeof NAMESPACES / sizeof *NAMESPACES };

// Returns false with errno set.
static bool read_credentials(int fd, struct ucred *peer) {
  socklen_t peer_bytes = sizeof *peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, peer, &peer_bytes) != 0) return false;
  // For a socket without a peer, the kernel returns the uid -1, which must not be used as an identity.
  if (peer_bytes == sizeof *peer && peer->uid != (uid_t)-1) return true;
  errno = ENOTCONN;
  return false;
}

napi_value peer_credentials(napi_env env, napi_callback_info info) {
  napi_value value, result;
  int fd;
  struct ucred peer;
  if (!read_arguments(env, info, 1, &value) || !read_descriptor(env, value, &fd)) return NULL;
  if (!read_credentials(fd, &peer)) {
    return throw_system_error(env, errno, "getsockopt", "read the peer of descriptor %d", fd);
  }
  if (napi_create_object(env, &result) != napi_ok) return throw_napi_failure(env, "napi_create_object");
  if (!set_integer(env, result, "pid", peer.pid) || !set_integer(env, result, "uid", peer.uid) ||
      !set_integer(env, result, "gid", peer.gid)) {
    return NULL;
  }
  return result;
}

// Returns the inode of a namespace, 0 if it cannot be known, and -1 if the kernel cannot be asked this way.
static int64_t ask_pidfd(int pidfd, unsigned long request) {
  int namespace = ioctl(pidfd, request, 0);
  if (namespace < 0) return errno == ENOTTY || errno == EINVAL ? -1 : 0;
  struct stat status;
  int64_t inode = syscall(SYS_fstat, namespace, &status) == 0 ? (int64_t)status.st_ino : 0;
  close(namespace);
  return inode;
}

// Whether /proc has the process numbers of this process's namespace. In a new namespace without a new mount, its
// numbers are those of another one, and so are the processes that they stand for.
static bool has_own_proc(void) {
  static const char KEY[] = "\nNSpid:\t";
  char text[8192];
  int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  if (length <= 0) return false;
  text[length] = '\0';
  const char *numbers = strstr(text, KEY);
  if (numbers == NULL) return false;
  numbers += sizeof KEY - 1;
  // One number for each namespace from that of /proc to that of the process.
  return numbers[strspn(numbers, "0123456789")] == '\n';
}

static int64_t ask_proc(pid_t pid, const char *name) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/%s", (int)pid, name);
  struct stat status;
  return syscall(SYS_newfstatat, AT_FDCWD, path, &status, 0) == 0 ? (int64_t)status.st_ino : 0;
}

// A pidfd is readable once its process has ended. Then the number may stand for another process.
static bool has_ended(int pidfd) {
  struct pollfd state = {.fd = pidfd, .events = POLLIN};
  return poll(&state, 1, 0) != 0;
}

// Fills in the inodes, with 0 for what cannot be known. `pidfd` is -1 if the kernel has none.
static void read_namespaces(pid_t pid, int pidfd, int64_t inodes[NAMESPACE_COUNT]) {
  bool from_pidfd = pidfd >= 0;
  for (int i = 0; i < NAMESPACE_COUNT && from_pidfd; i++) {
    inodes[i] = ask_pidfd(pidfd, NAMESPACES[i].request);
    from_pidfd = inodes[i] >= 0;
  }
  if (from_pidfd) return;
  bool is_known = pid > 0 && has_own_proc();
  for (int i = 0; i < NAMESPACE_COUNT; i++) inodes[i] = is_known ? ask_proc(pid, NAMESPACES[i].name) : 0;
  if (pidfd >= 0 && has_ended(pidfd)) memset(inodes, 0, NAMESPACE_COUNT * sizeof *inodes);
}

static napi_value make_namespaces(napi_env env, const int64_t inodes[NAMESPACE_COUNT]) {
  napi_value result;
  if (napi_create_object(env, &result) != napi_ok) return throw_napi_failure(env, "napi_create_object");
  for (int i = 0; i < NAMESPACE_COUNT; i++) {
    if (!set_integer(env, result, NAMESPACES[i].name, inodes[i])) return NULL;
  }
  return result;
}

napi_value own_namespaces(napi_env env, napi_callback_info info) {
  (void)info;
  int64_t inodes[NAMESPACE_COUNT];
  int pidfd = (int)syscall(PIDFD_OPEN, getpid(), 0);
  read_namespaces(getpid(), pidfd, inodes);
  if (pidfd >= 0) close(pidfd);
  return make_namespaces(env, inodes);
}

napi_value peer_namespaces(napi_env env, napi_callback_info info) {
  napi_value value;
  int fd;
  struct ucred peer;
  if (!read_arguments(env, info, 1, &value) || !read_descriptor(env, value, &fd)) return NULL;
  if (!read_credentials(fd, &peer)) {
    return throw_system_error(env, errno, "getsockopt", "read the peer of descriptor %d", fd);
  }
  int64_t inodes[NAMESPACE_COUNT] = {0};
  int pidfd = -1;
  socklen_t length = sizeof pidfd;
  bool has_pidfd = getsockopt(fd, SOL_SOCKET, PEERPIDFD, &pidfd, &length) == 0;
  // Any other error says that the process has ended, so that its number means nothing.
  if (has_pidfd || errno == ENOPROTOOPT) read_namespaces(peer.pid, has_pidfd ? pidfd : -1, inodes);
  if (has_pidfd && pidfd >= 0) close(pidfd);
  return make_namespaces(env, inodes);
}
