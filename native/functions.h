// All functions that JavaScript can call, by file. Their contracts (units, errors, lifetimes) are in `interface Addon`
// in src/os/addon.ts.
//
// The rule of this folder: system calls only. No code here reads or writes a byte of a mapped segment, so the layout of
// shared memory is defined in one language.

#pragma once

#include <node_api.h>

// segment.c
napi_value create_segment(napi_env env, napi_callback_info info);
napi_value seal_segment(napi_env env, napi_callback_info info);
napi_value inspect_segment(napi_env env, napi_callback_info info);
napi_value commit_pages(napi_env env, napi_callback_info info);
napi_value return_pages(napi_env env, napi_callback_info info);

// mapping.c
napi_value map_segment(napi_env env, napi_callback_info info);
napi_value map_in_advance(napi_env env, napi_callback_info info);
napi_value show_more(napi_env env, napi_callback_info info);
napi_value map_private(napi_env env, napi_callback_info info);
napi_value seal_region(napi_env env, napi_callback_info info);
napi_value detach_mapping(napi_env env, napi_callback_info info);
napi_value mapping_count(napi_env env, napi_callback_info info);
napi_value page_size(napi_env env, napi_callback_info info);

// view.c
napi_value view_mapping(napi_env env, napi_callback_info info);
napi_value set_view_listener(napi_env env, napi_callback_info info);
// Call once per environment; false if it threw.
_Bool set_up_views(napi_env env);

// socket.c
napi_value connect_socket(napi_env env, napi_callback_info info);
napi_value bind_socket(napi_env env, napi_callback_info info);
napi_value listen_socket(napi_env env, napi_callback_info info);
napi_value accept_socket(napi_env env, napi_callback_info info);
napi_value shutdown_socket(napi_env env, napi_callback_info info);
napi_value duplicate_descriptor(napi_env env, napi_callback_info info);
napi_value close_descriptor(napi_env env, napi_callback_info info);
napi_value count_closes(napi_env env, napi_callback_info info);
napi_value refuse_descriptors(napi_env env, napi_callback_info info);

// peer.c
napi_value peer_credentials(napi_env env, napi_callback_info info);
napi_value peer_namespaces(napi_env env, napi_callback_info info);
napi_value own_namespaces(napi_env env, napi_callback_info info);

// descriptors.c
napi_value hand_over_descriptor(napi_env env, napi_callback_info info);

// message.c
napi_value send_message(napi_env env, napi_callback_info info);
napi_value receive_message(napi_env env, napi_callback_info info);

// file.c
napi_value send_file(napi_env env, napi_callback_info info);

// doorbell.c
napi_value ring_doorbell(napi_env env, napi_callback_info info);
napi_value clear_doorbell(napi_env env, napi_callback_info info);
napi_value send_descriptor(napi_env env, napi_callback_info info);

// watch.c
napi_value watch_descriptor(napi_env env, napi_callback_info info);
napi_value watch_writable(napi_env env, napi_callback_info info);
napi_value ref_watch(napi_env env, napi_callback_info info);
napi_value unref_watch(napi_env env, napi_callback_info info);
napi_value close_watch(napi_env env, napi_callback_info info);
// Call once per environment, before any of the five above; false if it threw.
_Bool set_up_watches(napi_env env);

// wait.c
napi_value wait_readable(napi_env env, napi_callback_info info);

// host.c
napi_value lock_file(napi_env env, napi_callback_info info);
napi_value yield_thread(napi_env env, napi_callback_info info);
napi_value current_cpu(napi_env env, napi_callback_info info);
napi_value open_spare(napi_env env, napi_callback_info info);
napi_value adjust_external_memory(napi_env env, napi_callback_info info);
napi_value affinity(napi_env env, napi_callback_info info);
