/**
 * The form of a message type for views: a class whose instances keep the positions of their fields, and whose getters
 * decode. It is generated code where that is allowed, else closures with the same results.
 */
import type { DescMessage } from "@bufbuild/protobuf";
import { mayGenerate } from "../compile/generate.js";
import { closureView } from "./closure.js";
import { generateView, slotsOf } from "./generate.js";
import { VIEW } from "../wire/view-mark.js";

export interface ViewClass {
  /**
   * Makes a view of the message in [start, end) and in the ranges of `more`: start, end, start, end, …
   * @param room how many levels of messages may be nested in it; negative: not even this one is allowed
   * @throws if the message's own fields are malformed
   */
  make: (b: Uint8Array, start: number, end: number, more: readonly number[] | undefined, room: number) => object;
  /**
   * Whether the bytes have a value for the field with this number, and no later value for another field of its oneof.
   */
  holds: (view: object, number: number) => boolean;
  prototype: object;
}

export interface ViewType extends ViewClass {
  readonly desc: DescMessage;
}

/** Finds the type for a descriptor. */
export type ResolveView = (desc: DescMessage) => ViewType;

const generatedTypes = new WeakMap<DescMessage, ViewType>();
const closureTypes = new WeakMap<DescMessage, ViewType>();

/**
 * Classes with more slots are not generated. Measured on Node 20: generated classes are slower than closures from 370
 * slots on, and slower than decoding everything from 550 on.
 */
const GENERATED_SLOTS_MAX = 300;

export function viewType(desc: DescMessage): ViewType {
  if (!mayGenerate()) return closureViewType(desc);
  return (
    generatedTypes.get(desc) ??
    compile(desc, generatedTypes, viewType, slotsOf(desc) > GENERATED_SLOTS_MAX ? closureView : generateView)
  );
}

/** The type without generated code. */
export function closureViewType(desc: DescMessage): ViewType {
  return closureTypes.get(desc) ?? compile(desc, closureTypes, closureViewType, closureView);
}

function compile(
  desc: DescMessage,
  types: WeakMap<DescMessage, ViewType>,
  resolve: ResolveView,
  makeClass: (desc: DescMessage, resolve: ResolveView) => ViewClass,
): ViewType {
  const type = { desc, ...makeClass(desc, resolve) };
  Object.defineProperty(type.prototype, VIEW, { value: type });
  Object.defineProperty(type.prototype, Symbol.toStringTag, { value: `view of ${desc.typeName}` });
  types.set(desc, type);
  return type;
}

/** The type of a view; undefined if the object is not one. */
export function typeOfView(view: object): ViewType | undefined {
  return (view as { [VIEW]?: ViewType | null })[VIEW] ?? undefined;
}
