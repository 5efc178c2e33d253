/**
 * How the runner talks to programs: messages on standard input and output, each after its length in 4 bytes,
 * big-endian.
 */

/** The messages of standard input, as they come. */
export async function* readMessages(): AsyncGenerator<Uint8Array> {
  let bytes = Buffer.alloc(0);
  for await (const chunk of process.stdin) {
    bytes = Buffer.concat([bytes, chunk as Buffer]);
    while (bytes.length >= 4) {
      const end = 4 + bytes.readUInt32BE();
      if (bytes.length < end) break;
      yield bytes.subarray(4, end);
      bytes = bytes.subarray(end);
    }
  }
  if (bytes.length > 0) throw new Error("the input ends within a message");
}

export function writeMessage(bytes: Uint8Array): void {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(bytes.length);
  process.stdout.write(Buffer.concat([head, bytes]));
}

/** Ends this process soon after the one that started it, however that came to its end. */
export function endWithParent(): void {
  const parent = process.ppid;
  setInterval(() => {
    if (process.ppid !== parent) process.exit(1);
  }, 500).unref();
}
