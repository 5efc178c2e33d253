/** What the suites run over: the same bodies over shared memory, and, with ISTHMUS_ADDON=none, over the socket. */
import { loadAddon } from "../../src/os/addon.js";

/** What a connection between two ends that were told nothing runs over. */
export const CARRIER: "shm" | "socket" = loadAddon().addon === undefined ? "socket" : "shm";
/** Whether servers learn who calls. */
export const HAS_CREDENTIALS = CARRIER === "shm";
/** For tests that are about shared memory, or need what only the addon knows: what to skip them with. */
export const onlyWithAddon: string | false = HAS_CREDENTIALS
  ? false
  : "without the addon there is neither shared memory nor anybody's credentials";
