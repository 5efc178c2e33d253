/** Options that clients and servers share. Types only. */
import type { BinaryReadOptions, BinaryWriteOptions } from "@bufbuild/protobuf";
import type { Isolation } from "../../carrier/trust.js";
import type { MessageCodecFactory } from "../../codec/codec.js";
import type { LeaseLifetime } from "../../memory/payload/lease.js";
import type { KeepAliveOptions } from "../../rpc/keepalive.js";

/** Options of both `createIsthmusTransport` and `createIsthmusServer`. */
export interface CommonOptions {
  /**
   * How messages travel; "auto" by default.
   *
   * - "auto": shared memory if both ends have it, otherwise the socket that connects them. `carrierReason` and a
   *   process warning on the end that lacks shared memory say why.
   * - "shm": shared memory only. Fails with `FailedPrecondition` if either end lacks it. Not for HTTP and TCP
   *   addresses.
   * - "socket": never shared memory.
   */
  readonly carrier?: "auto" | "shm" | "socket";
  /** Largest message that this side accepts, in bytes; protobuf's limit of 2 GiB − 1 by default. */
  readonly readMaxBytes?: number;
  /** Largest message that this side sends, in bytes; protobuf's limit of 2 GiB − 1 by default. */
  readonly writeMaxBytes?: number;
  /** Options of the protobuf binary format, for example `{ writeUnknownFields: false }`. */
  readonly binaryOptions?: Partial<BinaryReadOptions & BinaryWriteOptions>;
  /** How messages become bytes; protobuf-es's binary format by default. */
  readonly codec?: MessageCodecFactory;
  /**
   * Whether this side may poll for the peer's frames instead of sleeping: for at most `maxMicros` microseconds after
   * the last work (200 by default, 1000 at most). Polling is used only while it pays off, and never delays the event
   * loop by more than 200 µs. `false` never polls.
   */
  readonly polling?: false | { readonly maxMicros: number };
  /**
   * How long received `bytes` and packed fields that were not copied stay valid; "collected" by default. Large values
   * are leased from the sender's memory instead of copied on arrival; see {@link LeaseLifetime}.
   */
  readonly leases?: LeaseLifetime;
  /**
   * How far the peer is trusted with shared memory. By default "shared" for processes of the same user in the same user,
   * process id and mount namespaces, otherwise "snapshot": large values are copied before anything reads them, so there
   * are no leases. `stats()` and the connection events say which it is, and why. See {@link Isolation}.
   */
  readonly isolation?: Isolation;
  /** Sizes of the shared memory that this side creates for each connection, in bytes. */
  readonly memory?: {
    /** The ring for small messages: a power of two, at least 64 KiB; 256 KiB by default. */
    readonly ringBytes?: number;
    /**
     * Upper limit for payloads in flight: a multiple of 64 KiB; 256 MiB by default. The memory is committed only as it
     * is needed.
     */
    readonly arenaBytes?: number;
  };
  /**
   * How much a stream may send to this side before its messages are pulled, in bytes; 1 MiB by default. Each message
   * counts with its length plus 128 bytes. One larger message is let through, so a stream holds at most this amount
   * plus one message in memory, per direction.
   */
  readonly streamWindowBytes?: number;
  /** Time limit for the handshake of a new connection, in milliseconds; 5000 by default. */
  readonly handshakeTimeoutMs?: number;
  /**
   * Detects a peer that hangs because its process is stopped or its event loop is blocked: the connection is closed,
   * and open calls fail with `Unavailable`. On by default for TCP. Off by default for Unix sockets, where the kernel
   * reports a peer's death. HTTP addresses have options of their own.
   */
  readonly keepAlive?: false | KeepAliveOptions;
}
