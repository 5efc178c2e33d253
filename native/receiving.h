// Receives bytes and descriptors from a Unix stream socket, so that the kernel never closes a descriptor in it.
//
// The kernel closes what a receive cannot deliver, within the system call: descriptors for which the control buffer or
// the process's table has no room, or for which there is no control buffer. closing.h says why that must not happen. So
// bytes are looked at first (MSG_PEEK), which gives this process its own descriptors, and taken out of the socket only
// when it has all of them.
//
// SUBTLE: a peer can send bytes out of band, which a receive skips and frees together with their descriptors. So all
// sockets have SO_OOBINLINE, which puts such bytes in line.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// The most that the kernel lets one message carry (SCM_MAX_FD). A receive never joins two such messages.
enum { RECEIVED_MAX = 253 };

struct received {
  ssize_t byte_length;  // as of recv(2): 0: the peer closed; -1: see errno
  int descriptors[RECEIVED_MAX];
  uint32_t count;
  // Not all descriptors could be delivered. All of them are closed, and the bytes are still in the socket, so the
  // connection has to end.
  bool lost;
};

// Receives up to `capacity` available bytes and the descriptors that came with them. They belong to the caller, who has
// to close them with close_apart.
void receive_with_descriptors(int fd, void *into, size_t capacity, struct received *received);

// Closes the first `count` descriptors in `descriptors`.
void close_received(const int *descriptors, uint32_t count);

// Prepares a socket for the functions above. Never fails for a socket.
void deliver_in_line(int fd);

// Whether the kernel refuses descriptors that a peer sends to the socket (SO_PASSRIGHTS, Linux 6.16).
bool refuses_descriptors(int fd);
// Returns false if the kernel does not have the option.
bool set_refuses_descriptors(int fd, bool refuses);

// Discards what is queued in a socket in which nothing more arrives. Returns false if descriptors are among it.
bool is_drained(int fd);
