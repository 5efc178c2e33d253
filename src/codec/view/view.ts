/** Messages read where they lie: a view finds its fields in one pass and decodes each when it is read. */
import type { DescField, DescMessage, JsonObject, Message, MessageShape } from "@bufbuild/protobuf";
import { isScalarZeroValue } from "@bufbuild/protobuf/reflect";
import type { ListView } from "./list.js";
import type { MapView } from "./map.js";
import { labelOf, PRESENCE, scalarOf } from "../wire/fields.js";
import { checkAttached } from "./place.js";
import { typeOfView, viewType } from "./type.js";

export type { ListView, MapView };

export interface ViewOptions {
  /** How many levels of messages may be nested, the outermost counted. Default: 100, as in protobuf-es. */
  readonly recursionLimit?: number;
}

/** A view of a message of the given schema. */
export type MessageView<D extends DescMessage = DescMessage> = ViewOf<MessageShape<D>>;

/**
 * A read-only look at a message of the given type: scalars as they are, messages as views, lists and maps as
 * `ListView`s and `MapView`s, oneofs as read-only objects with `case` and `value`.
 */
export type ViewOf<M extends Message> = {
  readonly [P in keyof M as P extends "$typeName" | "$unknown" ? never : P]: FieldViewOf<M[P]>;
} & {
  /** Never there. It keeps a view from being taken for a message, or for what a message can be made of. */
  readonly $typeName?: "a view is not a message";
};

export type FieldViewOf<F> = F extends Uint8Array | bigint | boolean | string | number | undefined
  ? F
  : F extends readonly (infer T)[]
    ? ListView<FieldViewOf<T>>
    : F extends Message
      ? ViewOf<F>
      : F extends { readonly case: infer C; readonly value?: infer V }
        ? OneofViewOf<C, V>
        : JsonObject extends F
          ? F
          : F extends { readonly [key: string | number]: infer V }
            ? MapView<string extends keyof F ? string : number, FieldViewOf<V>>
            : F;

/** Not a view itself: its value has been read. */
export type OneofViewOf<C, V> = C extends string
  ? { readonly case: C; readonly value: FieldViewOf<V> }
  : { readonly case: undefined; readonly value?: undefined };

/** `BinaryReadOptions.recursionLimit` of protobuf-es, where it is not given. */
const RECURSION_LIMIT_DEFAULT = 100;

/**
 * A view of the message in `bytes`, for whoever needs a few of many fields. What a getter returns is what the message
 * that `decode` returns has there, with views in the place of messages, lists and maps. Scalars are decoded anew each
 * time they are read. A view has no enumerable properties, so it cannot be spread or written as JSON; and it is no
 * message: it cannot be encoded.
 *
 * The bytes must not change as long as the view is used: not be memory that another process writes to (copy it first).
 * `bytes` fields are parts of them. After they are detached, every getter of the view and of all that came from it
 * throws a TypeError; only values that were read before stay, such as the scalar of a oneof.
 *
 * Malformed bytes: here the fields of the message itself are looked through, those of a nested message when it is read
 * (by its getter, or `at` and `get`), and a value when it is. Nothing outside of `bytes` is ever read. Two things
 * differ from `decode`: what nobody reads may be malformed unnoticed, a text that is not UTF-8 for example; and what
 * reaches past its own end is always an error: a nested message or a map's entry when it is read, a packed list here.
 * @throws Error or RangeError if the message's own fields are malformed
 * @throws TypeError if the bytes are detached
 */
export function view<D extends DescMessage>(schema: D, bytes: Uint8Array, options?: ViewOptions): MessageView<D> {
  const { length } = bytes;
  if (length === 0) checkAttached(bytes);
  return viewType(schema).make(
    bytes,
    0,
    length,
    undefined,
    (options?.recursionLimit ?? RECURSION_LIMIT_DEFAULT) - 1,
  ) as MessageView<D>;
}

/**
 * Whether a field of a view is set: what `isFieldSet` of protobuf-es says of the decoded message. That is to say, for
 * fields without presence, whether they have another value than zero; lists and maps, whether they have items.
 * @param field the field's descriptor, such as `UserSchema.field.name`
 * @throws TypeError if the field is not one of the view's message type
 */
export function isViewFieldSet(view: MessageView, field: DescField): boolean {
  const type = typeOfView(view);
  if (type === undefined) throw new TypeError(`cannot look for ${labelOf(field)}: this is not a view`);
  if (type.desc.typeName !== field.parent.typeName)
    throw new TypeError(`${labelOf(field)} is not a field of ${type.desc.typeName}`);
  // Also sees that the bytes are there.
  const value = (view as Readonly<Record<string, unknown>>)[(field.oneof ?? field).localName];
  if (!type.holds(view, field.number)) return false;
  if (field.fieldKind === "list") return (value as ListView<unknown>).length > 0;
  if (field.oneof !== undefined || (field.presence as number) !== PRESENCE.implicit) return true;
  if (field.fieldKind === "enum") return value !== field.enum.values[0].number;
  return field.fieldKind === "map" || !isScalarZeroValue(scalarOf(field)!, value);
}
