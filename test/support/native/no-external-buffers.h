// Included before the addon's own source: a Node-API that allows no ArrayBuffers over foreign memory, as Electron's.

#include <node_api.h>

static inline napi_status no_external_arraybuffer(napi_env env, void *data, size_t byte_length, napi_finalize finalise,
                                                  void *hint, napi_value *result) {
  (void)env, (void)data, (void)byte_length, (void)finalise, (void)hint, (void)result;
  return napi_no_external_buffers_allowed;
}

#define napi_create_external_arraybuffer no_external_arraybuffer
