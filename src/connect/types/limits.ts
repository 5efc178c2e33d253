/** What users may set of a server's limits per client. Types only. */

/**
 * What one client may use of a server. Honest load stays far below the defaults. A call that exceeds a limit fails with
 * `ResourceExhausted`, and the error names the limit.
 */
export interface ServerLimits {
  /**
   * Private memory that a connection may make the server keep, in bytes; 1 GiB by default. Counted are messages of
   * streams until they are pulled, requests until their handler has settled, headers, and answers that wait for the
   * client to read. Memory that is shared is not counted. One message may exceed it.
   *
   * A connection also never has more than half of what is left of half of the process's memory: the smallest of the
   * cgroup's limit, the machine's memory, and twice V8's heap limit.
   */
  readonly keptBytes?: number;
  /**
   * Values that one received message may consist of: nested messages, and elements of lists and maps; 262,144 by
   * default. Decoding a message is not interrupted, so this bounds how long one message stops the event loop. An
   * element that is a number counts a sixteenth, a nested message with many fields more than once.
   */
  readonly valuesPerMessage?: number;
  /**
   * Calls per second that a client may give up while they are open; 20,000 by default. As many as `maxStreams` may be
   * given up at once. A client that exceeds it is disconnected.
   */
  readonly resetsPerSecond?: number;
  /**
   * Clients that may be in the handshake at once; 256 by default. They have places among `maxConnections` only until
   * somebody else needs them. If there are more, the process with the most handshakes loses its oldest one.
   */
  readonly handshakes?: number;
  /**
   * Connections of one user. By default, half of `maxConnections` for every user other than the server's own, which has
   * no such limit.
   */
  readonly connectionsPerUser?: number;
  /** Connections of one process. By default, 128 for processes of users other than the server's own. */
  readonly connectionsPerProcess?: number;
}
