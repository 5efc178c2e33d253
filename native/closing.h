// Closes and unmaps what can take long, on threads of its own.
//
// close(2) runs code that the sender of a descriptor chose. A TCP socket with SO_LINGER waits in it for as long as its
// sender says, a file of FUSE waits for its server, and the last reference to a large memfd frees all its pages. A
// socket closes what is still queued in it. So no event loop makes such a call. There are two lanes, because they must
// not wait for each other: frees of memory, which take long but end, and closes that may never end.

#pragma once

#include <stdbool.h>
#include <stddef.h>

// A file of this size is freed in well under a millisecond.
enum { LARGE_FILE_BYTES = 4 << 20 };

// Whether `fd` is a memfd or another file in memory, in which case `*seals` are its seals. Never waits, whatever it is.
bool is_memory_file(int fd, int *seals);

// Closes `fd`, which belongs to nobody else, now or on another thread. `foreign`: a peer sent it. Never waits. Returns
// false with errno set if closing it here failed.
bool close_apart(int fd, bool foreign);

// Unmaps the last or only mapping of a large file on another thread.
void unmap_apart(void *address, size_t byte_length);

// Closes and unmappings of this process that wait for a thread or are under way.
int closes_under_way(void);
