// Waking a peer that sleeps in its event loop: one zero byte over the control socket. An eventfd shared with the peer
// could be filled or made blocking by it; a socket's end is ours alone, and MSG_DONTWAIT holds for this call whatever
// the peer does.

#include "arguments.h"
#include "errors.h"
#include "functions.h"

#include <errno.h>
#include <limits.h>
#include <sys/socket.h>

// On the hot path of every wake-up: three Node-API calls, and nothing is thrown.
napi_value ring_doorbell(napi_env env, napi_callback_info info) {
  napi_value value, result;
  size_t count = 1;
  double number = -1;
  int answer = -EINVAL;
  if (napi_get_cb_info(env, info, &count, &value, NULL, NULL) == napi_ok &&
      napi_get_value_double(env, value, &number) == napi_ok && number >= 0 && number <= INT_MAX) {
    static const char ring = 0;
    answer = send((int)number, &ring, sizeof ring, MSG_DONTWAIT | MSG_NOSIGNAL) == 1 ? 0 : -errno;
  }
  return napi_create_int32(env, answer, &result) == napi_ok ? result : NULL;
}

// recv, not recvmsg: descriptors that a hostile peer attaches are dropped and closed by the kernel, since there is no
// room to receive them in. They never reach our table.
napi_value clear_doorbell(napi_env env, napi_callback_info info) {
  enum { ROUNDS_MAX = 16, HUNG_UP = -1, VIOLATION = -2 };
  napi_value value;
  int fd;
  if (!read_arguments(env, info, 1, &value) || !read_descriptor(env, value, &fd)) return NULL;

  // Bounded: a peer that rings without pause only gets its turn of the loop, and the poll reports the rest.
  int taken = 0;
  for (int round = 0; round < ROUNDS_MAX; round++) {
    unsigned char bytes[256];
    ssize_t received = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (received < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) break;
      if (errno == ECONNRESET) return make_integer(env, HUNG_UP);
      return throw_system_error(env, errno, "recv", "clear the doorbell on descriptor %d", fd);
    }
    if (received == 0) return make_integer(env, HUNG_UP);
    for (ssize_t i = 0; i < received; i++) {
      if (bytes[i] != 0) return make_integer(env, VIOLATION);
    }
    taken += (int)received;
    // A short read has emptied the socket; should more have come meanwhile, the poll reports it.
    if (received < (ssize_t)sizeof bytes) break;
  }
  return make_integer(env, taken);
}
