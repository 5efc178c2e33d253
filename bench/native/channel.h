// Two channels in memory that two processes share, and how their readers wait.
//
//   channel   | tail: messages published | sleeping: the reader waits in the kernel | slots … |
//
// Message n lies in slot n % SLOTS. The client has at most SLOTS / 2 calls in flight, and replies come in the order of
// the requests, so a slot is never written while the peer may read it.
//
// c-spin looks at the tail without pause while the client works; c-futex does so for a moment, then sleeps in futex(2);
// c-eventfd sleeps in read(2) at once. Between measurements all of them sleep, so that a peer's processes do not disturb
// another's.

#ifndef CHANNEL_H
#define CHANNEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define SLOTS 128
#define BYTES_MAX (64 << 10)

enum strategy { SPIN, FUTEX, EVENTFD };

struct slot {
  _Alignas(64) uint64_t id;
  uint32_t length;
  _Alignas(64) unsigned char data[BYTES_MAX];
};

struct channel {
  _Alignas(64) atomic_uint tail;
  _Alignas(64) atomic_uint sleeping;
  struct slot slots[SLOTS];
};

struct memory {
  struct channel requests, replies;
  // The client is working.
  _Alignas(64) atomic_bool active;
};

extern enum strategy strategy;
extern struct memory *memory;
extern int request_bell, reply_bell;

// Makes the memory, and sends it to the server that listens at `path`.
void connect_memory(const char *path);
// Returns a socket for `accept_memory`.
int listen_at(const char *path);
// Waits for a client and its memory.
void accept_memory(int listener);

// `tail` messages were written.
void publish(struct channel *channel, uint32_t tail, int bell);
// Waits until more than `head` messages were published. Returns how many were.
uint32_t wait_for(struct channel *channel, uint32_t head, int bell);

// Says what failed, and ends the process.
void fail(const char *format, ...);
void check(bool ok, const char *what);

#endif
