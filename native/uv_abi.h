// The functions of libuv that watch.c and closing.c need. Node exports them to addons, but the package with Node-API's headers does
// not have libuv's, so they are declared here. Names, argument types and the values below are part of libuv 1.x's ABI,
// which has not changed for existing symbols since 1.0. Every Node with Node-API 8 has libuv 1.x.
//
// Handles are opaque. Their size depends on version and platform, so uv_handle_size() is called at run time.

#pragma once

#include <stddef.h>

typedef struct uv_loop_s uv_loop_t;
typedef struct uv_handle_s uv_handle_t;
typedef struct uv_poll_s uv_poll_t;

typedef unsigned long uv_thread_t;  // pthread_t, which is one word in glibc and musl

enum { UV_THREAD_HAS_STACK_SIZE = 1 };

typedef struct {
  unsigned int flags;
  size_t stack_size;
} uv_thread_options_t;

typedef void (*uv_close_cb)(uv_handle_t *handle);
typedef void (*uv_poll_cb)(uv_poll_t *handle, int status, int events);

// Of enum uv_handle_type: UNKNOWN 0, ASYNC 1, CHECK 2, FS_EVENT 3, FS_POLL 4, HANDLE 5, IDLE 6, NAMED_PIPE 7, POLL 8.
typedef enum { UV_POLL = 8 } uv_handle_type;

// Of enum uv_poll_event.
enum { UV_READABLE = 1, UV_WRITABLE = 2, UV_DISCONNECT = 4 };

size_t uv_handle_size(uv_handle_type type);
void *uv_handle_get_data(const uv_handle_t *handle);
void uv_handle_set_data(uv_handle_t *handle, void *data);
void uv_ref(uv_handle_t *handle);
void uv_unref(uv_handle_t *handle);
void uv_close(uv_handle_t *handle, uv_close_cb on_close);

int uv_poll_init(uv_loop_t *loop, uv_poll_t *handle, int fd);
int uv_poll_start(uv_poll_t *handle, int events, uv_poll_cb on_event);
int uv_poll_stop(uv_poll_t *handle);

int uv_thread_create_ex(uv_thread_t *thread, const uv_thread_options_t *options, void (*entry)(void *data), void *data);
