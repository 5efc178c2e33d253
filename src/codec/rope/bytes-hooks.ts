/**
 * Lets the code that sends messages watch, and replace, the bytes that an encoding writes. The codec calls these hooks
 * and knows nothing of what they do.
 */
interface BytesHooks {
  /** Whether the next encoding calls `note` for every `bytes` value and every typed array that it writes. */
  tracking: boolean;
  /** @returns the bytes to write instead; usually the same */
  note: (bytes: Uint8Array) => Uint8Array;
  /**
   * While tracking: returns the bytes to read instead, for bytes that are neither copied as a whole nor left where they
   * are; usually the same.
   */
  readable: (bytes: Uint8Array) => Uint8Array;
  /** Says why the memory of a view is gone, to follow "its memory is gone: ". */
  explainGone: (bytes: ArrayBufferView) => string;
}

export const bytesHooks: BytesHooks = {
  tracking: false,
  note: (bytes) => bytes,
  readable: (bytes) => bytes,
  explainGone: () => "the ArrayBuffer is detached, because it was transferred or given away",
};
