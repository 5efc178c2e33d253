/**
 * The async context that connections and listeners live in: the one of this module's load. SUBTLE: made in the context
 * of a user's call, they would show that user's AsyncLocalStorage stores to whatever their sockets' events start, and
 * would keep those stores from being collected for as long as they live.
 */
import { AsyncLocalStorage } from "node:async_hooks";

export const inRootContext = AsyncLocalStorage.snapshot();
