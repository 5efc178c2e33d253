/**
 * Why this package manages V8's memory, and the switch that turns all of it off.
 *
 * V8 knows nothing of shared memory. It sees ArrayBuffers, counts their lengths as memory outside its heap, and
 * schedules garbage collection by that count. That fits neither loans nor leases:
 *
 * - A lease that its user drops keeps a block of the peer's arena until V8 collects it. The peer may be waiting for
 *   exactly that block, while V8 sees no reason to collect. So garbage is collected on request (`gc.ts`).
 * - An arena bounds its leases already, but V8 counts each of them as new memory, and marks its whole heap after every
 *   15 to 30 MiB of leases. So its count is corrected (`external-memory.ts`).
 * - Making an ArrayBuffer over a block costs microseconds. Moving its memory to a new one costs less, but Node 20 hides
 *   `transfer` behind a flag, and Node 24 locks buffers that must not leave their thread (`array-buffer-transfer.ts`).
 *
 * With `ISTHMUS_V8=plain` in the environment, no V8 flag is set at run time, no garbage collection is requested and the
 * count of external memory is not adjusted. Everything works, but memory that was not released comes back only when V8
 * collects it by itself, and large leases cost more garbage collection.
 */

/** Whether V8's memory is left alone. Read once, when the module loads. */
export const isPlain = process.env["ISTHMUS_V8"] === "plain";
