// A reserve of mappings, for when the process reaches vm.max_map_count.
//
// At the limit, not only our mmap fails. The kernel even refuses to grow the heap, malloc returns NULL, and the process
// dies while it creates the Error that should report the limit. So some unused mappings are held. Code that reaches the
// limit gives them back before it reports the error.

#pragma once

#include <stdbool.h>

// Call before mapping. Returns false, with errno set, if the reserve cannot be held. Then the limit is near, so do not
// map.
bool hold_headroom(void);

// Call before work that ends in mapping, such as a handshake: V8 needs mappings for it too, and dies where it gets none.
// Gives the reserve back if there is hardly anything beside it. Then the mapping fails, and the reserve serves to say so.
void check_headroom(void);

// Call when a mapping failed with ENOMEM, before anything else. The next hold_headroom() takes the reserve again.
void give_headroom(void);
