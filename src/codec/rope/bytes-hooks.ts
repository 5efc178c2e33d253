/**
 * What whoever sends messages has to know and to say about their bytes. The codec calls it, and knows nothing of it.
 */
interface BytesHooks {
  /**
   * Whether the next encoding is to call `note` for every value of bytes, and for every typed array, that it writes.
   */
  tracking: boolean;
  /** @returns what to write instead, mostly the same */
  note: (bytes: Uint8Array) => Uint8Array;
  /**
   * While tracking: what to read instead of bytes that are neither copied as a whole nor left where they are; mostly
   * the same.
   */
  readable: (bytes: Uint8Array) => Uint8Array;
  /** Why a view's memory is gone, to be read after "its memory is gone: ". */
  explainGone: (bytes: ArrayBufferView) => string;
}

export const bytesHooks: BytesHooks = {
  tracking: false,
  note: (bytes) => bytes,
  readable: (bytes) => bytes,
  explainGone: () => "the ArrayBuffer is detached, because it was transferred or given away",
};
