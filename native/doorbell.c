// The control socket after the handshake. It carries rings, which are zero bytes that wake a peer asleep in its event
// loop, and descriptors, each with a byte of value 1. A peer could fill an eventfd that it shares, or make it blocking.
// One end of a socket belongs to this process alone, and MSG_DONTWAIT holds for a call whatever the peer does.

#include "arguments.h"
#include "closing.h"
#include "descriptors.h"
#include "errors.h"
#include "functions.h"
#include "receiving.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { RING = 0, DESCRIPTOR = 1 };

// Room for one descriptor, with the alignment that the kernel requires.
union control {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int))];
};

// Never throws. Returns -1 if the value is not a descriptor.
static int descriptor_or_none(napi_env env, napi_value value) {
  double number = -1;
  bool is_one = napi_get_value_double(env, value, &number) == napi_ok && number >= 0 && number <= INT_MAX;
  return is_one ? (int)number : -1;
}

// On the hot path of every wake-up: makes only three Node-API calls, and never throws.
napi_value ring_doorbell(napi_env env, napi_callback_info info) {
  napi_value value, result;
  size_t count = 1;
  int fd = -1;
  int answer = -EINVAL;
  if (napi_get_cb_info(env, info, &count, &value, NULL, NULL) == napi_ok) fd = descriptor_or_none(env, value);
  if (fd >= 0) {
    static const char ring = RING;
    answer = send(fd, &ring, sizeof ring, MSG_DONTWAIT | MSG_NOSIGNAL) == 1 ? 0 : -errno;
  }
  return napi_create_int32(env, answer, &result) == napi_ok ? result : NULL;
}

napi_value send_descriptor(napi_env env, napi_callback_info info) {
  napi_value values[2], result;
  size_t count = 2;
  int fd = -1, descriptor = -1;
  int answer = -EINVAL;
  if (napi_get_cb_info(env, info, &count, values, NULL, NULL) == napi_ok) {
    fd = descriptor_or_none(env, values[0]);
    descriptor = descriptor_or_none(env, values[1]);
  }
  if (fd >= 0 && descriptor >= 0) {
    char byte = DESCRIPTOR;
    struct iovec iov = {.iov_base = &byte, .iov_len = sizeof byte};
    union control control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof descriptor);
    memcpy(CMSG_DATA(&control.header), &descriptor, sizeof descriptor);
    answer = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == 1 ? 0 : -errno;
  }
  return napi_create_int32(env, answer, &result) == napi_ok ? result : NULL;
}

enum { ROUNDS_MAX = 16, ROUND_BYTES = 256 };
enum { HUNG_UP = -1, VIOLATION = -2, NO_ROOM = -3 };

struct cleared {
  int rings;  // or HUNG_UP, VIOLATION, NO_ROOM
  int descriptors[ROUNDS_MAX];
  uint32_t count;
};

// Processes the result of one read. Returns 0, VIOLATION or NO_ROOM. Descriptors that are not in `cleared` are closed.
static int take(struct cleared *cleared, const unsigned char *bytes, const struct received *received) {
  if (received->lost) return NO_ROOM;
  ssize_t announced = 0;
  bool known = true;
  for (ssize_t i = 0; i < received->byte_length; i++) {
    if (bytes[i] > DESCRIPTOR) known = false;
    announced += bytes[i];
  }
  // A read ends after the bytes that descriptors were sent with, so a read never has those of two messages.
  if (!known || announced != received->count || announced > 1) {
    close_received(received->descriptors, received->count);
    return VIOLATION;
  }
  if (announced == 1) cleared->descriptors[cleared->count++] = received->descriptors[0];
  cleared->rings += (int)(received->byte_length - announced);
  return 0;
}

// Returns false with errno set if reading failed.
static bool clear(int fd, struct cleared *cleared) {
  // Bounded, so that a peer that rings all the time cannot block the loop. The poll reports remaining bytes again.
  for (int round = 0; round < ROUNDS_MAX; round++) {
    unsigned char bytes[ROUND_BYTES];
    struct received received;
    receive_with_descriptors(fd, bytes, sizeof bytes, &received);
    if (received.byte_length < 0) {
      if (errno == EAGAIN) return true;
      if (errno != ECONNRESET) return false;
    }
    if (received.byte_length <= 0) {
      // Bytes that came before are reported first. The poll reports the hang-up again.
      if (cleared->rings == 0 && cleared->count == 0) cleared->rings = HUNG_UP;
      return true;
    }
    uint32_t before = cleared->count;
    int broken = take(cleared, bytes, &received);
    if (broken != 0) {
      cleared->rings = broken;
      return true;
    }
    // A short read has emptied the socket, unless it ended at a descriptor. If more bytes came meanwhile, the poll
    // reports them.
    if (received.byte_length < ROUND_BYTES && cleared->count == before) return true;
  }
  return true;
}

// Closes all descriptors, after taking back the first `given` from JavaScript.
static void close_cleared(napi_env env, const struct cleared *cleared, uint32_t given) {
  for (uint32_t i = 0; i < cleared->count; i++) {
    if (i < given) take_back_descriptor(env, cleared->descriptors[i]);
    close_apart(cleared->descriptors[i], true);
  }
}

static napi_value append(napi_env env, napi_value list, const struct cleared *cleared) {
  uint32_t length;
  if (napi_get_array_length(env, list, &length) != napi_ok) {
    close_cleared(env, cleared, 0);
    return throw_napi_failure(env, "napi_get_array_length");
  }
  for (uint32_t i = 0; i < cleared->count; i++) {
    napi_value number = hand_out_foreign(env, cleared->descriptors[i]);
    bool is_set = number != NULL && napi_set_element(env, list, length + i, number) == napi_ok;
    if (is_set) continue;
    // A descriptor that could not be handed out is closed already.
    struct cleared rest = *cleared;
    if (number == NULL) rest.descriptors[i] = rest.descriptors[--rest.count];
    close_cleared(env, &rest, number == NULL ? i : i + 1);
    return throw_napi_failure(env, "napi_set_element");
  }
  return make_integer(env, cleared->rings);
}

napi_value clear_doorbell(napi_env env, napi_callback_info info) {
  napi_value values[2];
  int fd;
  bool is_array = false;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], &fd)) return NULL;
  if (napi_is_array(env, values[1], &is_array) != napi_ok || !is_array) {
    return throw_type_error(env, "descriptors must be an array");
  }
  struct cleared cleared;
  cleared.rings = 0;
  cleared.count = 0;
  if (!clear(fd, &cleared)) {
    int error = errno;
    close_cleared(env, &cleared, 0);
    return throw_system_error(env, error, "recvmsg", "clear the doorbell on descriptor %d", fd);
  }
  if (cleared.rings == VIOLATION || cleared.rings == NO_ROOM) {
    close_cleared(env, &cleared, 0);
  } else if (cleared.count > 0) {
    return append(env, values[1], &cleared);
  }
  return make_integer(env, cleared.rings);
}
