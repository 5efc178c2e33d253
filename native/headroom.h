// A reserve of mappings, for the moment when the process reaches vm.max_map_count.
//
// At the limit not only our mmap fails: the kernel then refuses even to grow the heap, malloc returns NULL, and the
// process dies while it makes the Error that should have told its user. So some mappings are held that nobody uses.
// Whoever runs into the limit gives them back first and reports then.

#pragma once

#include <stdbool.h>

// Call before mapping. False, with errno set, if the reserve cannot be held: the limit is near, so do not map.
bool hold_headroom(void);

// Call when a mapping failed with ENOMEM, before anything else. The next hold_headroom() takes the reserve again.
void give_headroom(void);
