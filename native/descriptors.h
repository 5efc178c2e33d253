// The ledger of an environment: the descriptors that its JavaScript holds as plain numbers. When a worker thread ends,
// nothing runs that could close its numbers, and the process lives on: without this its peers would never learn that
// it is gone. A number that is not in the ledger is never closed here: it belongs to Node, to another thread, or to
// whoever opened a file since.
//
// A descriptor enters the ledger when it is made or received (hand_out_descriptor). It leaves it when it is closed
// (take_back_descriptor), or when Node takes it over (handOverDescriptor in functions.h), and in no other way.

#pragma once

#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct ledger {
  uint64_t *held;  // a bit for each number
  size_t words;
  // The one that is being handed over, by the file that it names. Meaningless if `held` has not its bit.
  struct {
    int fd;
    dev_t device;
    ino_t inode;
  } leaving;
};

// Closes what is still open when the environment ends. Call before anything that watches descriptors is set up:
// clean-up hooks run last in, first out, and a watch must end before its descriptor. False after it has thrown.
bool set_up_descriptors(napi_env env);

// Gives `fd` to JavaScript. On failure closes it, throws and returns NULL.
napi_value hand_out_descriptor(napi_env env, int fd);

// JavaScript gives it back: the caller closes it. False if this environment does not hold it; then nobody may close it.
bool take_back_descriptor(napi_env env, int fd);
