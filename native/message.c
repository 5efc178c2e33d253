// Sends and receives bytes with descriptors over a connected Unix stream socket. Received descriptors belong to the
// caller if receive_message succeeds. If it fails, they are closed here, apart from this thread.

#include "arguments.h"
#include "descriptors.h"
#include "errors.h"
#include "functions.h"
#include "receiving.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { DESCRIPTORS_MAX = 16 };

// The kernel requires control messages to have the alignment of their header.
union control {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
};

static bool read_descriptors(napi_env env, napi_value list, int *descriptors, uint32_t *count) {
  bool is_array = false;
  if (napi_is_array(env, list, &is_array) != napi_ok || !is_array ||
      napi_get_array_length(env, list, count) != napi_ok) {
    throw_type_error(env, "descriptors must be an array");
    return false;
  }
  if (*count > DESCRIPTORS_MAX) {
    throw_range_error(env, "a message carries at most %d descriptors; got %u", DESCRIPTORS_MAX, *count);
    return false;
  }
  for (uint32_t i = 0; i < *count; i++) {
    napi_value value;
    if (napi_get_element(env, list, i, &value) != napi_ok) {
      throw_napi_failure(env, "napi_get_element");
      return false;
    }
    if (!read_descriptor(env, value, &descriptors[i])) return false;
  }
  return true;
}

napi_value send_message(napi_env env, napi_callback_info info) {
  napi_value values[3];
  int fd;
  uint8_t *bytes;
  size_t byte_length;
  int descriptors[DESCRIPTORS_MAX];
  uint32_t count;
  // The bytes are read last, because reading the list may run a getter that detaches them.
  if (!read_arguments(env, info, 3, values) || !read_descriptor(env, values[0], &fd) ||
      !read_descriptors(env, values[2], descriptors, &count) ||
      !read_bytes(env, values[1], "bytes", &bytes, &byte_length)) {
    return NULL;
  }
  // On a stream, descriptors travel with a byte. Without a byte, the kernel would accept them and deliver nothing.
  if (byte_length == 0) return throw_range_error(env, "a message needs at least one byte");

  struct iovec iov = {.iov_base = bytes, .iov_len = byte_length};
  union control control;
  struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
  if (count > 0) {
    memset(&control, 0, sizeof control);
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), descriptors, count * sizeof(int));
  }
  ssize_t sent;
  do {
    sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return make_integer(env, sent);
  if (errno == EAGAIN) return make_integer(env, -1);
  return throw_system_error(env, errno, "sendmsg", "send %zu bytes and %u descriptors on descriptor %d", byte_length,
                            count, fd);
}

static napi_value make_message(napi_env env, ssize_t byte_length, const int *descriptors, uint32_t count) {
  napi_value result, list;
  if (napi_create_object(env, &result) != napi_ok || napi_create_array_with_length(env, count, &list) != napi_ok) {
    return throw_napi_failure(env, "napi_create_object");
  }
  for (uint32_t i = 0; i < count; i++) {
    napi_value number = make_integer(env, descriptors[i]);
    if (number == NULL) return NULL;
    if (napi_set_element(env, list, i, number) != napi_ok) return throw_napi_failure(env, "napi_set_element");
  }
  if (!set_integer(env, result, "byteLength", byte_length)) return NULL;
  if (napi_set_named_property(env, result, "descriptors", list) != napi_ok) {
    return throw_napi_failure(env, "napi_set_named_property");
  }
  return result;
}

napi_value receive_message(napi_env env, napi_callback_info info) {
  napi_value values[2];
  int fd;
  uint8_t *into;
  size_t capacity;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], &fd) ||
      !read_bytes(env, values[1], "into", &into, &capacity)) {
    return NULL;
  }
  // Without room, the kernel would read 0 bytes, which would look as if the peer had closed.
  if (capacity == 0) return throw_range_error(env, "into must have room for at least one byte");

  struct received received;
  receive_with_descriptors(fd, into, capacity, &received);
  const int *descriptors = received.descriptors;
  const uint32_t count = received.count;
  if (received.byte_length < 0) {
    if (errno == EAGAIN) return make_message(env, -1, descriptors, 0);
    return throw_system_error(env, errno, "recvmsg", "receive on descriptor %d", fd);
  }
  // The kernel does not report why it could not deliver descriptors. There was room for as many as there can be.
  if (received.lost) return throw_system_error(env, EMFILE, "recvmsg", "receive descriptors on descriptor %d", fd);
  napi_value result = NULL;
  if (count > DESCRIPTORS_MAX) {
    throw_explained_error(env, EMSGSIZE, "recvmsg", "receive on descriptor %d: the peer sent more than %d descriptors",
                          fd, DESCRIPTORS_MAX);
  } else {
    result = make_message(env, received.byte_length, descriptors, count);
  }
  uint32_t given = 0;
  while (result != NULL && given < count && hand_out_foreign(env, descriptors[given]) != NULL) given++;
  if (result != NULL && given == count) return result;
  for (uint32_t i = 0; i < given; i++) take_back_descriptor(env, descriptors[i]);
  // One that could not be handed out is closed already.
  close_received(descriptors, given);
  uint32_t rest = result == NULL ? given : given + 1;
  close_received(descriptors + rest, count - rest);
  return NULL;
}
