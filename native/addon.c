// The entry point: makes an object of functions for each environment. The main thread and each worker load the addon
// for themselves. Environments share nothing except the reserve in headroom.c and
// the threads in closing.c. No state belongs to a thread, because a
// thread may have several environments.

#include "descriptors.h"
#include "environment.h"
#include "errors.h"
#include "functions.h"

#if !defined(__linux__) || !defined(__LP64__)
#error "isthmus's addon is for 64-bit Linux"
#endif

NAPI_MODULE_INIT() {
  static const struct {
    const char *name;
    napi_callback function;
  } FUNCTIONS[] = {
      {"createSegment", create_segment},
      {"sealSegment", seal_segment},
      {"inspectSegment", inspect_segment},
      {"commitPages", commit_pages},
      {"returnPages", return_pages},
      {"mapSegment", map_segment},
      {"mapInAdvance", map_in_advance},
      {"showMore", show_more},
      {"mapPrivate", map_private},
      {"sealRegion", seal_region},
      {"detachMapping", detach_mapping},
      {"mappingCount", mapping_count},
      {"pageSize", page_size},
      {"viewMapping", view_mapping},
      {"onViewFreed", set_view_listener},
      {"connectSocket", connect_socket},
      {"bindSocket", bind_socket},
      {"listenSocket", listen_socket},
      {"acceptSocket", accept_socket},
      {"peerCredentials", peer_credentials},
      {"peerNamespaces", peer_namespaces},
      {"ownNamespaces", own_namespaces},
      {"shutdownSocket", shutdown_socket},
      {"duplicateDescriptor", duplicate_descriptor},
      {"closeDescriptor", close_descriptor},
      {"closesUnderWay", count_closes},
      {"refuseDescriptors", refuse_descriptors},
      {"handOverDescriptor", hand_over_descriptor},
      {"sendMessage", send_message},
      {"receiveMessage", receive_message},
      {"sendFile", send_file},
      {"ringDoorbell", ring_doorbell},
      {"clearDoorbell", clear_doorbell},
      {"sendDescriptor", send_descriptor},
      {"watch", watch_descriptor},
      {"watchWritable", watch_writable},
      {"refWatch", ref_watch},
      {"unrefWatch", unref_watch},
      {"closeWatch", close_watch},
      {"waitReadable", wait_readable},
      {"lockFile", lock_file},
      {"yieldThread", yield_thread},
      {"currentCpu", current_cpu},
      {"openSpare", open_spare},
      {"affinity", affinity},
      {"adjustExternalMemory", adjust_external_memory},
  };

  for (size_t i = 0; i < sizeof FUNCTIONS / sizeof *FUNCTIONS; i++) {
    napi_value function;
    if (napi_create_function(env, FUNCTIONS[i].name, NAPI_AUTO_LENGTH, FUNCTIONS[i].function, NULL, &function) !=
            napi_ok ||
        napi_set_named_property(env, exports, FUNCTIONS[i].name, function) != napi_ok) {
      return throw_napi_failure(env, "napi_create_function");
    }
  }
  bool is_set_up = set_up_environment(env) && set_up_descriptors(env) && set_up_watches(env) && set_up_views(env);
  return is_set_up ? exports : NULL;
}
