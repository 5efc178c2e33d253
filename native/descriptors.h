// The ledger of an environment: the descriptors that its JavaScript holds as plain numbers. When a worker thread ends,
// no JavaScript runs that could close them, and the process lives on. Without the ledger, peers would never learn that
// the worker is gone. A number that is not in the ledger is never closed here: it belongs to Node, to another thread,
// or to a file that was opened since.
//
// A descriptor enters the ledger when it is created or received (hand_out_descriptor). It leaves the ledger only when
// it is closed (take_back_descriptor), or when Node takes it over (handOverDescriptor in functions.h).

#pragma once

#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct ledger {
  uint64_t *held;     // one bit per number
  uint64_t *foreign;  // of those that are held: a peer sent it
  size_t words;
  // The descriptor that is being handed over, and the file that it refers to. Not valid if its bit in `held` is clear.
  struct {
    int fd;
    dev_t device;
    ino_t inode;
  } leaving;
};

// Lets the remaining descriptors be closed when the environment ends. Call before watches are set up: clean-up hooks
// run in reverse order, and a watch must end before its descriptor. Returns false after it has thrown.
bool set_up_descriptors(napi_env env);

// Gives `fd` to JavaScript. If this fails, it closes `fd`, throws and returns NULL.
napi_value hand_out_descriptor(napi_env env, int fd);
// The same for a descriptor that a peer sent.
napi_value hand_out_foreign(napi_env env, int fd);

// Takes `fd` back from JavaScript, for the caller to close. Returns false if this environment does not hold it; then it
// must not be closed.
bool take_back_descriptor(napi_env env, int fd);

// Whether a peer sent `fd`, which this environment holds.
bool is_foreign_descriptor(napi_env env, int fd);
