#include "channel.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

// Looks at the tail before the reader sleeps: some ten microseconds.
#define SPINS 2000

enum strategy strategy;
struct memory *memory;
int request_bell, reply_bell;

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

void publish(struct channel *channel, uint32_t tail, int bell) {
  // SYNC with wait_for: the payload is visible before the tail, and the tail before `sleeping` is read.
  atomic_store(&channel->tail, tail);
  if (atomic_load(&channel->sleeping) == 0) return;
  atomic_store(&channel->sleeping, 0);
  if (strategy == EVENTFD) {
    check(eventfd_write(bell, 1) == 0, "eventfd");
  } else {
    syscall(SYS_futex, &channel->sleeping, FUTEX_WAKE, 1, NULL, NULL, 0);
  }
}

uint32_t wait_for(struct channel *channel, uint32_t head, int bell) {
  int spins = strategy == FUTEX ? SPINS : 0;
  for (;;) {
    uint32_t tail = atomic_load(&channel->tail);
    if (tail != head) return tail;
    if (spins > 0 || (strategy == SPIN && atomic_load(&memory->active))) {
      if (spins > 0) spins--;
      relax();
      continue;
    }
    // SYNC with publish: `sleeping` is visible before the tail is read again.
    atomic_store(&channel->sleeping, 1);
    if (atomic_load(&channel->tail) != head) {
      // The writer may have rung by now; a bell too many is one look too many.
      atomic_store(&channel->sleeping, 0);
    } else if (strategy == EVENTFD) {
      eventfd_t count;
      check(eventfd_read(bell, &count) == 0 || errno == EINTR, "eventfd");
    } else {
      syscall(SYS_futex, &channel->sleeping, FUTEX_WAIT, 1, NULL, NULL, 0);
    }
  }
}

// The memory file and the bells of requests and replies.
#define DESCRIPTORS 3

union control {
  char bytes[CMSG_SPACE(sizeof(int[DESCRIPTORS]))];
  struct cmsghdr align;
};

static void send_descriptors(int endpoint, const int *descriptors) {
  union control control = {0};
  struct iovec byte = {.iov_base = "", .iov_len = 1};
  struct msghdr message = {
      .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int[DESCRIPTORS]));
  memcpy(CMSG_DATA(header), descriptors, sizeof(int[DESCRIPTORS]));
  check(sendmsg(endpoint, &message, 0) == 1, "sendmsg");
}

static void receive_descriptors(int endpoint, int *descriptors) {
  union control control;
  char byte;
  struct iovec into = {.iov_base = &byte, .iov_len = 1};
  struct msghdr message = {
      .msg_iov = &into, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  check(recvmsg(endpoint, &message, 0) == 1, "recvmsg");
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  if (header == NULL || header->cmsg_len != CMSG_LEN(sizeof(int[DESCRIPTORS]))) fail("the client sent no memory");
  memcpy(descriptors, CMSG_DATA(header), sizeof(int[DESCRIPTORS]));
}

static void map(int file) {
  memory = mmap(NULL, sizeof *memory, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  check(memory != MAP_FAILED, "mmap");
}

static struct sockaddr_un address_of(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) fail("%s is too long", path);
  strcpy(address.sun_path, path);
  return address;
}

static int make_socket(void) {
  int endpoint = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check(endpoint >= 0, "socket");
  return endpoint;
}

void connect_memory(const char *path) {
  int endpoint = make_socket();
  struct sockaddr_un address = address_of(path);
  check(connect(endpoint, (struct sockaddr *)&address, sizeof address) == 0, "connect");
  int file = memfd_create("bench", MFD_CLOEXEC);
  check(file >= 0 && ftruncate(file, sizeof *memory) == 0, "memfd_create");
  map(file);
  request_bell = eventfd(0, EFD_CLOEXEC);
  reply_bell = eventfd(0, EFD_CLOEXEC);
  check(request_bell >= 0 && reply_bell >= 0, "eventfd");
  send_descriptors(endpoint, (int[DESCRIPTORS]){file, request_bell, reply_bell});
}

int listen_at(const char *path) {
  int endpoint = make_socket();
  struct sockaddr_un address = address_of(path);
  unlink(path);
  check(bind(endpoint, (struct sockaddr *)&address, sizeof address) == 0, "bind");
  check(listen(endpoint, 1) == 0, "listen");
  return endpoint;
}

void accept_memory(int listener) {
  int descriptors[DESCRIPTORS];
  int connection = accept(listener, NULL, NULL);
  check(connection >= 0, "accept");
  receive_descriptors(connection, descriptors);
  map(descriptors[0]);
  request_bell = descriptors[1];
  reply_bell = descriptors[2];
}

void fail(const char *format, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  bool mismatch = strstr(text, "payload mismatch:") != NULL;
  printf("{\"type\":\"failed\",\"message\":\"%s\",\"mismatch\":%s}\n", text, mismatch ? "true" : "false");
  fflush(stdout);
  _exit(1);
}

void check(bool ok, const char *what) {
  if (!ok) fail("%s: %s", what, strerror(errno));
}
