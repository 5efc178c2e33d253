// Lets the kernel send files over sockets, without reading them into this process's memory.

#include "arguments.h"
#include "errors.h"
#include "functions.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/sendfile.h>
#include <time.h>

// sendfile(2) without SIGPIPE. The call has no flag for that, and Node ignores the signal only until user code has once
// added a listener for it. The signal goes to the sending thread, so it is enough to block it here and to remove it.
static ssize_t send_quietly(int socket, int file, off_t offset, size_t byte_length) {
  sigset_t sigpipe, pending, before;
  sigemptyset(&sigpipe);
  sigaddset(&sigpipe, SIGPIPE);
  sigemptyset(&pending);
  sigpending(&pending);
  // On Linux this changes only this thread's mask. pthread_sigmask guarantees that, but if linked on a recent system,
  // it is newer than GLIBC_2.17.
  if (sigprocmask(SIG_BLOCK, &sigpipe, &before) != 0) return -1;
  ssize_t sent;
  do {
    sent = sendfile(socket, file, &offset, byte_length);
  } while (sent < 0 && errno == EINTR);
  int error = errno;
  // A signal that was pending before has another cause, and stays.
  if (sent < 0 && error == EPIPE && !sigismember(&pending, SIGPIPE)) {
    static const struct timespec now = {0, 0};
    while (sigtimedwait(&sigpipe, NULL, &now) < 0 && errno == EINTR) continue;
  }
  sigprocmask(SIG_SETMASK, &before, NULL);
  errno = error;
  return sent;
}

napi_value send_file(napi_env env, napi_callback_info info) {
  enum { FULL = -1 };
  napi_value values[4];
  int socket, file;
  int64_t offset, byte_length;
  if (!read_arguments(env, info, 4, values) || !read_descriptor(env, values[0], &socket) ||
      !read_descriptor(env, values[1], &file) || !read_integer(env, values[2], "offset", &offset) ||
      !read_integer(env, values[3], "byteLength", &byte_length)) {
    return NULL;
  }
  // The kernel would return 0, which here means the end of the file.
  if (byte_length == 0) return throw_range_error(env, "byteLength must not be 0");
  int flags = fcntl(socket, F_GETFL);
  if (flags < 0) return throw_system_error(env, errno, "fcntl", "send a file on descriptor %d", socket);
  // sendfile has no flag for not waiting, and changing the socket's flag would affect all other holders of the socket.
  if (!(flags & O_NONBLOCK)) {
    return throw_explained_error(env, EINVAL, "sendfile", "send a file on descriptor %d: the socket is not non-blocking",
                                 socket);
  }
  ssize_t sent = send_quietly(socket, file, offset, (size_t)byte_length);
  if (sent >= 0) return make_integer(env, sent);
  if (errno == EAGAIN) return make_integer(env, FULL);
  return throw_system_error(env, errno, "sendfile", "send %lld bytes at %lld of descriptor %d on descriptor %d",
                            (long long)byte_length, (long long)offset, file, socket);
}
