/**
 * How much one decoding may make. A message of two bytes on the wire can be an object with hundreds of bytes, so the
 * length of the input bounds neither memory nor time.
 *
 * WORK-1  Whatever a decoding makes or looks at is counted, in units of about four bytes of memory or a few nanoseconds:
 *         an empty message with its size, an element of a list 16 (a number 4 or less), an entry of a map 32, an
 *         unknown field 48, every other field 1; `bytes` and text of more than 8 bytes 4 in addition, and text one for
 *         every 8 bytes. A decoding that exceeds its limit fails. Generated code looks at the count once per message
 *         and 1024 fields.
 */

/** Units of one value: an element of a list, or a nested message without fields. */
export const UNITS_PER_VALUE = 16;
export const MAP_ENTRY_UNITS = 32;
export const UNKNOWN_FIELD_UNITS = 48;
export const TEXT_UNITS = 4;
export const BYTES_UNITS = 4;
/** A number that is an element of a list. A bigint takes ten times as long to make. */
export const NUMBER_UNITS = 1;
export const BIGINT_UNITS = 4;
/** A small integer, so that comparing with it is fast. */
const UNLIMITED = 0x3fff_ffff;

/** The current decoding. There is only one at a time, because decoding runs no user code. */
export const work = {
  units: 0,
  unitsMax: UNLIMITED,
  /** For the error. */
  valuesMax: Infinity,
};

/** A message consists of more than it may. */
export class TooManyValuesError extends Error {
  override readonly name = "TooManyValuesError";
  readonly valuesMax: number;

  constructor(valuesMax: number) {
    super(`the message consists of more than ${valuesMax} values (valuesMax)`);
    this.valuesMax = valuesMax;
  }
}

/** Begins a decoding. @param valuesMax undefined: no limit */
export function startWork(valuesMax: number | undefined): void {
  work.units = 0;
  work.valuesMax = valuesMax ?? Infinity;
  work.unitsMax = Math.min(work.valuesMax * UNITS_PER_VALUE, UNLIMITED);
}

/** Called when the count is past `unitsMax`. @throws TooManyValuesError if that is the limit */
export function tooMuchWork(): void {
  if (work.valuesMax * UNITS_PER_VALUE <= UNLIMITED) throw new TooManyValuesError(work.valuesMax);
  work.units = 0;
}

/** Counts what the caller makes. @throws TooManyValuesError */
export function countWork(units: number): void {
  if ((work.units += units) > work.unitsMax) tooMuchWork();
}
