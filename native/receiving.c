#include "receiving.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "closing.h"

// Value of the kernel's ABI, which older headers lack.
enum { PASSRIGHTS = 83 };

// The kernel requires control messages to have the alignment of their header.
union control {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(RECEIVED_MAX * sizeof(int))];
};

void close_received(const int *descriptors, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) close_apart(descriptors[i], true);
}

static void take_descriptors(struct msghdr *message, struct received *received) {
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    size_t came = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(received->descriptors + received->count, CMSG_DATA(header), came * sizeof(int));
    received->count += (uint32_t)came;
  }
}

static ssize_t peek(int fd, struct msghdr *message) {
  ssize_t peeked;
  do {
    peeked = recvmsg(fd, message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (peeked < 0 && errno == EINTR);
  return peeked;
}

// Takes the bytes that were peeked at out of the socket. The process has their descriptors, so the kernel closes only
// second references to them.
static ssize_t consume(int fd, void *into, size_t byte_length) {
  ssize_t consumed;
  do {
    consumed = recv(fd, into, byte_length, MSG_DONTWAIT);
  } while (consumed < 0 && errno == EINTR);
  return consumed;
}

void receive_with_descriptors(int fd, void *into, size_t capacity, struct received *received) {
  received->count = 0;
  received->lost = false;
  struct iovec iov = {.iov_base = into, .iov_len = capacity};
  union control control;
  struct msghdr message = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  received->byte_length = peek(fd, &message);
  if (received->byte_length <= 0) return;
  take_descriptors(&message, received);
  received->lost = (message.msg_flags & MSG_CTRUNC) != 0;
  if (!received->lost) received->byte_length = consume(fd, into, (size_t)received->byte_length);
  if (!received->lost && received->byte_length >= 0) return;
  int error = errno;
  close_received(received->descriptors, received->count);
  received->count = 0;
  errno = error;
}

void deliver_in_line(int fd) {
  static const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
}

bool refuses_descriptors(int fd) {
  int passes = 1;
  socklen_t length = sizeof passes;
  return getsockopt(fd, SOL_SOCKET, PASSRIGHTS, &passes, &length) == 0 && passes == 0;
}

bool set_refuses_descriptors(int fd, bool refuses) {
  const int passes = refuses ? 0 : 1;
  return setsockopt(fd, SOL_SOCKET, PASSRIGHTS, &passes, sizeof passes) == 0;
}

bool is_drained(int fd) {
  // More than a socket's buffers hold.
  enum { ROUNDS_MAX = 64, ROUND_BYTES = 8192 };
  for (int round = 0; round < ROUNDS_MAX; round++) {
    char bytes[ROUND_BYTES];
    struct iovec iov = {.iov_base = bytes, .iov_len = sizeof bytes};
    // Without room for descriptors, the kernel only reports that there are some.
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t peeked = peek(fd, &message);
    // ECONNRESET is reported once, before the bytes.
    if (peeked < 0 && errno == ECONNRESET) continue;
    if (peeked <= 0) return true;
    if ((message.msg_flags & MSG_CTRUNC) != 0 || consume(fd, bytes, (size_t)peeked) != peeked) return false;
  }
  return false;
}
