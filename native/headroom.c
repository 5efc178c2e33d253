#include "headroom.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
  // Enough for V8 and malloc to go on for a while. This is 0.2 % of the usual limit of 65530.
  RESERVED_MAPPINGS = 128,
  // What code that runs for the first time may need.
  SPARE_MAPPINGS = 32,
};

// The limit is per process, so all threads share one reserve. (The addon's other mutable globals are in backing.c and
// closing.c.)
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *reserve = NULL;

// Maps a range whose pages have alternating protections, so that the kernel cannot merge them into one mapping. It
// takes no memory.
static char *map_pages(size_t count, size_t page_bytes) {
  const size_t byte_length = count * page_bytes;
  char *range = mmap(NULL, byte_length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return NULL;
  for (size_t page = 1; page < count; page += 2) {
    if (mprotect(range + page * page_bytes, page_bytes, PROT_READ) != 0) {
      int error = errno;
      munmap(range, byte_length);
      errno = error;
      return NULL;
    }
  }
  return range;
}

static bool has_spare(size_t page_bytes) {
  char *spare = map_pages(SPARE_MAPPINGS, page_bytes);
  if (spare == NULL) return false;
  munmap(spare, SPARE_MAPPINGS * page_bytes);
  return true;
}

bool hold_headroom(void) {
  const size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
  pthread_mutex_lock(&lock);
  if (reserve == NULL) {
    reserve = map_pages(RESERVED_MAPPINGS, page_bytes);
    // Taken with nothing beside it, it would only bring V8 to the limit again.
    if (reserve != NULL && !has_spare(page_bytes)) {
      int error = errno;
      munmap(reserve, RESERVED_MAPPINGS * page_bytes);
      reserve = NULL;
      errno = error;
    }
  }
  bool held = reserve != NULL;
  pthread_mutex_unlock(&lock);
  return held;
}

void check_headroom(void) {
  if (!has_spare((size_t)sysconf(_SC_PAGESIZE))) give_headroom();
}

void give_headroom(void) {
  pthread_mutex_lock(&lock);
  if (reserve != NULL) munmap(reserve, RESERVED_MAPPINGS * (size_t)sysconf(_SC_PAGESIZE));
  reserve = NULL;
  pthread_mutex_unlock(&lock);
}
