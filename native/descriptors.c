#include "descriptors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arguments.h"
#include "closing.h"
#include "environment.h"
#include "errors.h"
#include "functions.h"

static struct ledger *ledger_of(napi_env env) {
  struct environment *environment = environment_of(env);
  return environment == NULL ? NULL : &environment->descriptors;
}

static bool grow(uint64_t **bits, size_t words, size_t wanted) {
  uint64_t *grown = realloc(*bits, wanted * sizeof *grown);
  if (grown == NULL) return false;
  memset(grown + words, 0, (wanted - words) * sizeof *grown);
  *bits = grown;
  return true;
}

static bool hold(struct ledger *ledger, int fd, bool foreign) {
  size_t word = (size_t)fd / 64;
  if (word >= ledger->words) {
    size_t wanted = (word + 1) * 2;
    if (!grow(&ledger->held, ledger->words, wanted) || !grow(&ledger->foreign, ledger->words, wanted)) return false;
    ledger->words = wanted;
  }
  uint64_t bit = UINT64_C(1) << (fd % 64);
  ledger->held[word] |= bit;
  ledger->foreign[word] = foreign ? ledger->foreign[word] | bit : ledger->foreign[word] & ~bit;
  return true;
}

static bool is_held(const struct ledger *ledger, int fd) {
  size_t word = (size_t)fd / 64;
  return word < ledger->words && (ledger->held[word] & UINT64_C(1) << (fd % 64)) != 0;
}

static void remove_from_ledger(struct ledger *ledger, int fd) {
  ledger->held[(size_t)fd / 64] &= ~(UINT64_C(1) << (fd % 64));
  // The number may be used again, for another file.
  if (ledger->leaving.fd == fd) ledger->leaving.fd = -1;
}

static bool is_foreign(const struct ledger *ledger, int fd) {
  return (ledger->foreign[(size_t)fd / 64] & UINT64_C(1) << (fd % 64)) != 0;
}

static napi_value hand_out(napi_env env, int fd, bool foreign) {
  struct ledger *ledger = ledger_of(env);
  if (ledger == NULL || !hold(ledger, fd, foreign)) {
    close_apart(fd, foreign);
    return throw_system_error(env, ENOMEM, "realloc", "record descriptor %d", fd);
  }
  napi_value number = make_integer(env, fd);
  if (number == NULL) {
    remove_from_ledger(ledger, fd);
    close_apart(fd, foreign);
  }
  return number;
}

napi_value hand_out_descriptor(napi_env env, int fd) { return hand_out(env, fd, false); }

napi_value hand_out_foreign(napi_env env, int fd) { return hand_out(env, fd, true); }

bool is_foreign_descriptor(napi_env env, int fd) {
  struct ledger *ledger = ledger_of(env);
  return ledger != NULL && is_held(ledger, fd) && is_foreign(ledger, fd);
}

bool take_back_descriptor(napi_env env, int fd) {
  struct ledger *ledger = ledger_of(env);
  if (ledger == NULL || !is_held(ledger, fd)) return false;
  remove_from_ledger(ledger, fd);
  return true;
}

// Called by number, because the C library's fstat is newer than GLIBC_2.17 if compiled on a recent system.
static bool identify(int fd, dev_t *device, ino_t *inode) {
  struct stat status;
  if (syscall(SYS_fstat, fd, &status) != 0) return false;
  *device = status.st_dev;
  *inode = status.st_ino;
  return true;
}

// SUBTLE: worker.terminate() can stop JavaScript anywhere, even between Node's taking a descriptor and the return of
// `take`. Then the bit is still set, but Node may have closed the descriptor, because it closes its handles before the
// ledger is closed. So a descriptor that was being handed over is checked by its file: no other open file has the inode
// of a socket.
static bool is_ours(const struct ledger *ledger, int fd) {
  dev_t device;
  ino_t inode;
  if (fd != ledger->leaving.fd) return true;
  return identify(fd, &device, &inode) && device == ledger->leaving.device && inode == ledger->leaving.inode;
}

napi_value hand_over_descriptor(napi_env env, napi_callback_info info) {
  napi_value values[2], undefined, result;
  napi_valuetype type;
  int fd;
  if (!read_arguments(env, info, 2, values) || !read_descriptor(env, values[0], &fd)) return NULL;
  if (napi_typeof(env, values[1], &type) != napi_ok || type != napi_function) {
    return throw_type_error(env, "take must be a function");
  }
  struct ledger *ledger = ledger_of(env);
  if (ledger == NULL || !is_held(ledger, fd)) {
    return throw_explained_error(env, EBADF, "fstat", "hand over descriptor %d: this thread does not hold it", fd);
  }
  if (!identify(fd, &ledger->leaving.device, &ledger->leaving.inode)) {
    return throw_system_error(env, errno, "fstat", "hand over descriptor %d", fd);
  }
  ledger->leaving.fd = fd;
  if (napi_get_undefined(env, &undefined) != napi_ok) return throw_napi_failure(env, "napi_get_undefined");
  // An exception of `take` is pending.
  if (napi_call_function(env, undefined, values[1], 1, values, &result) != napi_ok) return NULL;
  // If `take` has closed the descriptor, the number may already be held again, for another file.
  if (ledger->leaving.fd == fd) remove_from_ledger(ledger, fd);
  return result;
}

static void close_held(void *data) {
  struct ledger *ledger = data;
  for (size_t word = 0; word < ledger->words; word++) {
    for (uint64_t bits = ledger->held[word]; bits != 0; bits &= bits - 1) {
      int fd = (int)(word * 64) + __builtin_ctzll(bits);
      if (is_ours(ledger, fd)) close_apart(fd, is_foreign(ledger, fd));
    }
  }
  free(ledger->held);
  free(ledger->foreign);
  *ledger = (struct ledger){.held = NULL, .words = 0};
}

bool set_up_descriptors(napi_env env) {
  struct ledger *ledger = ledger_of(env);
  if (ledger != NULL) {
    ledger->leaving.fd = -1;
    if (napi_add_env_cleanup_hook(env, close_held, ledger) == napi_ok) return true;
  }
  throw_napi_failure(env, "napi_add_env_cleanup_hook");
  return false;
}
