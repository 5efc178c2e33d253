// A client and a server in C that call over shared memory: what a call costs without a runtime, a codec or a protocol.
// Payloads are written and compared where they lie.
//
//   pair server c-spin|c-futex|c-eventfd PATH WAIT_MS
//   pair client c-spin|c-futex|c-eventfd PATH NUMBER CONNECTIONS
//
// The main thread reads commands (lines.ts), and ends the process when they end; another thread does the work.

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"

#define SAMPLES_MAX (1 << 17)

// ── Payloads: the same work as payload.ts ───────────────────────────────────────────────────────────────────────────

#define PERIOD 65521
#define STARTS 1021
#define STRIDE 61

static unsigned char table[PERIOD * 2];

static void make_table(void) {
  uint32_t state = 0x9e3779b9;
  for (int i = 0; i < PERIOD; i++) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    table[i] = table[i + PERIOD] = (unsigned char)(state >> 24);
  }
}

static const unsigned char *start_of(uint32_t id, bool is_reply) {
  uint32_t mixed = (id ^ (id >> 15)) * 0x2c1b3c6d;
  uint32_t start = (mixed ^ (mixed >> 12)) % STARTS;
  if (is_reply) start = (start + STARTS / 2) % STARTS;
  return table + start * STRIDE;
}

static void produce(struct slot *slot, uint32_t id, uint32_t length, bool is_reply) {
  const unsigned char *start = start_of(id, is_reply);
  slot->id = id;
  slot->length = length;
  for (uint32_t at = 0; at < length; at += PERIOD)
    memcpy(slot->data + at, start, length - at < PERIOD ? length - at : PERIOD);
}

static void compare(const struct slot *slot, uint32_t id, uint32_t length, bool is_reply) {
  const unsigned char *start = start_of(id, is_reply);
  bool same = slot->id == id && slot->length == length;
  for (uint32_t at = 0; same && at < length; at += PERIOD)
    same = memcmp(slot->data + at, start, length - at < PERIOD ? length - at : PERIOD) == 0;
  if (!same) fail("payload mismatch: the %s of call %u is not what was written", is_reply ? "reply" : "request", id);
}

// ── The work of both ends ───────────────────────────────────────────────────────────────────────────────────────────

static void *serve(void *listener) {
  accept_memory((int)(intptr_t)listener);
  uint32_t head = 0;
  for (;;) {
    uint32_t tail = wait_for(&memory->requests, head, request_bell);
    for (; head != tail; head++) {
      struct slot *request = &memory->requests.slots[head % SLOTS];
      uint32_t id = (uint32_t)request->id, length = request->length;
      compare(request, id, length, false);
      produce(&memory->replies.slots[head % SLOTS], id, length, true);
      publish(&memory->replies, head + 1, reply_bell);
    }
  }
  return NULL;
}

struct load {
  unsigned length, in_flight, pause_ms, calls_max;
  double duration_ms;
};

static double call_ms[SAMPLES_MAX], payload_ms[SAMPLES_MAX];

static double now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static double cpu_micros(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

// As measure.ts does: what is kept stays a fair sample.
static void record(unsigned count, double call, double payload) {
  static uint64_t random = 0x2545f4914f6cdd1d;
  unsigned at = count;
  if (at >= SAMPLES_MAX) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    at = (unsigned)(random % (count + 1));
    if (at >= SAMPLES_MAX) return;
  }
  call_ms[at] = call;
  payload_ms[at] = payload;
}

static void print_samples(const char *name, const double *samples, unsigned count) {
  printf(",\"%s\":[", name);
  for (unsigned i = 0; i < count; i++) printf(i == 0 ? "%.6f" : ",%.6f", samples[i]);
  printf("]");
}

static void print_stretch(unsigned calls, double elapsed_ms, double cpu) {
  unsigned kept = calls < SAMPLES_MAX ? calls : SAMPLES_MAX;
  printf("{\"type\":\"stretch\",\"stretch\":{\"calls\":%u,\"elapsedMs\":%.6f,\"cpuMicros\":%.0f,\"heapBytes\":null",
         calls, elapsed_ms, cpu);
  print_samples("callMs", call_ms, kept);
  print_samples("payloadMs", payload_ms, kept);
  printf("}}\n");
  fflush(stdout);
}

static void *call(void *argument) {
  struct load *load = argument;
  static uint32_t sent;
  uint32_t received = sent;
  double producing[SLOTS], called[SLOTS];
  const unsigned limit = load->calls_max == 0 ? UINT32_MAX : load->calls_max;
  unsigned calls = 0, started = 0;
  double cpu_from = cpu_micros(), from = now_ms(), until = from + load->duration_ms;
  bool more = true;
  atomic_store(&memory->active, true);
  while (more || received != sent) {
    while (more && sent - received < load->in_flight) {
      if (load->pause_ms > 0) nanosleep(&(struct timespec){.tv_nsec = load->pause_ms * 1000000L}, NULL);
      unsigned at = sent % SLOTS;
      producing[at] = now_ms();
      produce(&memory->requests.slots[at], sent, load->length, false);
      called[at] = now_ms();
      publish(&memory->requests, ++sent, request_bell);
      more = producing[at] < until && ++started < limit;
    }
    uint32_t tail = wait_for(&memory->replies, received, reply_bell);
    // One reply, one new call: the server is to have work while the next reply is read.
    for (bool first = true; received != tail && (first || !more); first = false) {
      unsigned at = received % SLOTS;
      double replied = now_ms();
      compare(&memory->replies.slots[at], received, load->length, true);
      record(calls++, replied - called[at], now_ms() - producing[at]);
      received++;
    }
  }
  double elapsed_ms = now_ms() - from, cpu = cpu_micros() - cpu_from;
  atomic_store(&memory->active, false);
  print_stretch(calls, elapsed_ms, cpu);
  free(load);
  return NULL;
}

// ── Commands ────────────────────────────────────────────────────────────────────────────────────────────────────────

static void start_thread(void *(*run)(void *), void *argument) {
  pthread_t thread;
  errno = pthread_create(&thread, NULL, run, argument);
  check(errno == 0, "pthread_create");
  pthread_detach(thread);
}

static void start_call(const char *command) {
  struct load *load = malloc(sizeof *load);
  check(load != NULL, "malloc");
  int found = sscanf(command, "run %u %u %u %u %lf", &load->length, &load->in_flight, &load->pause_ms, &load->calls_max,
                     &load->duration_ms);
  if (found != 5 || load->length > BYTES_MAX || load->in_flight > SLOTS / 2) fail("a load that is not served");
  start_thread(call, load);
}

int main(int count, char **arguments) {
  if (count != 5 + (count > 1 && strcmp(arguments[1], "client") == 0)) fail("wrong arguments");
  bool is_server = strcmp(arguments[1], "server") == 0;
  const char *name = arguments[2];
  strategy = strcmp(name, "c-spin") == 0 ? SPIN : strcmp(name, "c-futex") == 0 ? FUTEX : EVENTFD;
  if (strcmp(arguments[count - 1], is_server ? "0" : "1") != 0) fail("%s does not wait, and has one connection", name);
  make_table();
  if (is_server) start_thread(serve, (void *)(intptr_t)listen_at(arguments[3]));
  else connect_memory(arguments[3]);
  printf("{\"type\":\"ready\"}\n");
  fflush(stdout);
  char line[256];
  while (fgets(line, sizeof line, stdin) != NULL && strncmp(line, "stop", 4) != 0) {
    if (strncmp(line, "run", 3) == 0) start_call(line);
    if (strncmp(line, "usage", 5) == 0) {
      printf("{\"type\":\"usage\",\"cpuMicros\":%.0f}\n", cpu_micros());
      fflush(stdout);
    }
  }
  fflush(stdout);
  _exit(0);
}
