/** Lines of the combined log format, as web servers write them: pure, no I/O. */

export interface AccessLogEntry {
  readonly client: string;
  readonly time: Date;
  /** Method, path and protocol. */
  readonly request: string;
  readonly status: number;
  readonly bytes: number;
  readonly referrer: string;
  readonly agent: string;
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** With its newline. */
export function accessLogLine(entry: AccessLogEntry): string {
  const { client, time, request, status, bytes, referrer, agent } = entry;
  return `${client} - - [${logTime(time)}] "${escaped(request)}" ${status} ${bytes} "${escaped(referrer)}" "${escaped(agent)}"\n`;
}

/** 22/Nov/2026:16:59:55 +0000 */
function logTime(time: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const date = `${two(time.getUTCDate())}/${MONTHS[time.getUTCMonth()]}/${time.getUTCFullYear()}`;
  return `${date}:${two(time.getUTCHours())}:${two(time.getUTCMinutes())}:${two(time.getUTCSeconds())} +0000`;
}

/** What a client sends must not end the quotes or the line: `\xHH`, as nginx does it. */
function escaped(text: string): string {
  return text.replace(/["\\]|[^\x20-\x7e]/g, (character) => {
    return [...Buffer.from(character)].map((byte) => `\\x${byte.toString(16).toUpperCase().padStart(2, "0")}`).join("");
  });
}
