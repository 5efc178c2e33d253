#include "descriptors.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "arguments.h"
#include "errors.h"

// An environment has a thread of its own, so this is the environment's: a bit per descriptor number.
static __thread uint64_t *held;
static __thread size_t words;

static bool hold(int fd) {
  size_t word = (size_t)fd / 64;
  if (word >= words) {
    size_t wanted = (word + 1) * 2;
    uint64_t *grown = realloc(held, wanted * sizeof *held);
    if (grown == NULL) return false;
    for (size_t i = words; i < wanted; i++) grown[i] = 0;
    held = grown;
    words = wanted;
  }
  held[word] |= UINT64_C(1) << (fd % 64);
  return true;
}

void take_back_descriptor(int fd) {
  size_t word = (size_t)fd / 64;
  if (word < words) held[word] &= ~(UINT64_C(1) << (fd % 64));
}

napi_value hand_out_descriptor(napi_env env, int fd) {
  if (!hold(fd)) {
    close(fd);
    return throw_system_error(env, ENOMEM, "realloc", "note descriptor %d", fd);
  }
  napi_value number = make_integer(env, fd);
  if (number == NULL) {
    take_back_descriptor(fd);
    close(fd);
  }
  return number;
}

static void close_held(void *data) {
  (void)data;
  for (size_t word = 0; word < words; word++) {
    for (uint64_t bits = held[word]; bits != 0; bits &= bits - 1) close((int)(word * 64) + __builtin_ctzll(bits));
  }
  free(held);
  held = NULL;
  words = 0;
}

bool set_up_descriptors(napi_env env) {
  if (napi_add_env_cleanup_hook(env, close_held, NULL) == napi_ok) return true;
  throw_napi_failure(env, "napi_add_env_cleanup_hook");
  return false;
}
