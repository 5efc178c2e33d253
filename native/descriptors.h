// The descriptors that JavaScript holds as plain numbers, per environment. When a worker thread ends, nothing runs that
// could close its numbers, and the process lives on: without this its peers would never learn that it is gone.

#pragma once

#include <node_api.h>
#include <stdbool.h>

// Closes what is still open when the environment ends. Call before anything that watches descriptors is set up:
// clean-up hooks run last in, first out, and a watch must end before its descriptor. False after it has thrown.
bool set_up_descriptors(napi_env env);

// Gives `fd` to JavaScript. On failure closes it, throws and returns NULL.
napi_value hand_out_descriptor(napi_env env, int fd);

// JavaScript gives it back: the caller closes it.
void take_back_descriptor(int fd);
