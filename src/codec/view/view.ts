/** Views read messages in place: a view finds its fields in one pass, and decodes each field when it is read. */
import type { DescField, DescMessage, JsonObject, Message, MessageShape } from "@bufbuild/protobuf";
import { isScalarZeroValue } from "@bufbuild/protobuf/reflect";
import type { ListView } from "./list.js";
import type { MapView } from "./map.js";
import { labelOf, PRESENCE, scalarOf } from "../wire/fields.js";
import { checkAttached } from "./place.js";
import { typeOfView, viewType } from "./type.js";

export type { ListView, MapView };

export interface ViewOptions {
  /** How many levels of messages may be nested, including the outermost. Default: 100, as in protobuf-es. */
  readonly recursionLimit?: number;
}

/** A view of a message of the given schema. */
export type MessageView<D extends DescMessage = DescMessage> = ViewOf<MessageShape<D>>;

/**
 * A read-only view of a message of the given type: scalars as they are, messages as views, lists and maps as
 * `ListView`s and `MapView`s, oneofs as read-only objects with `case` and `value`.
 */
export type ViewOf<M extends Message> = {
  readonly [P in keyof M as P extends "$typeName" | "$unknown" ? never : P]: FieldViewOf<M[P]>;
} & {
  /** Never set. This type keeps a view from being used as a message, or as the init object of a message. */
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

/** A oneof. It is not itself a view, because its value has been read. */
export type OneofViewOf<C, V> = C extends string
  ? { readonly case: C; readonly value: FieldViewOf<V> }
  : { readonly case: undefined; readonly value?: undefined };

/** The default of `BinaryReadOptions.recursionLimit` in protobuf-es. */
const RECURSION_LIMIT_DEFAULT = 100;

/**
 * A view of the message in `bytes`, for reading a few of many fields. A getter returns what the decoded message has
 * there, with views in place of messages, lists and maps. Scalars are decoded at every read. A view has no enumerable
 * properties, so it cannot be spread or converted to JSON. It is not a message, so it cannot be encoded.
 *
 * The bytes must not change while the view is used, so they must not be memory that another process writes to; copy
 * such memory first. `bytes` fields are parts of them. After they are detached, every getter of the view, and of
 * everything that came from it, throws a TypeError. Only values that were read before stay valid, such as the scalar of
 * a oneof.
 *
 * Malformed bytes: `view` checks the fields of the message itself. Those of a nested message are checked when it is
 * read (by its getter, `at` or `get`), and a value when it is read. Nothing outside of `bytes` is ever read. Two things
 * differ from `decode`. A part that is never read may be malformed without an error, for example a text that is not
 * UTF-8. And a part that reaches past its own end is always an error: a nested message or a map's entry when it is
 * read, a packed list in `view` itself.
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
 * Whether a field of a view is set, as `isFieldSet` of protobuf-es defines it for the decoded message: a field without
 * presence is set if its value is not zero, and a list or map is set if it has items.
 * @param field the field's descriptor, such as `UserSchema.field.name`
 * @throws TypeError if the field is not one of the view's message type
 */
export function isViewFieldSet(view: MessageView, field: DescField): boolean {
  const type = typeOfView(view);
  if (type === undefined) throw new TypeError(`cannot look for ${labelOf(field)}: this is not a view`);
  if (type.desc.typeName !== field.parent.typeName)
    throw new TypeError(`${labelOf(field)} is not a field of ${type.desc.typeName}`);
  // The getter also checks that the bytes are attached.
  const value = (view as Readonly<Record<string, unknown>>)[(field.oneof ?? field).localName];
  if (!type.holds(view, field.number)) return false;
  if (field.fieldKind === "list") return (value as ListView<unknown>).length > 0;
  if (field.oneof !== undefined || (field.presence as number) !== PRESENCE.implicit) return true;
  if (field.fieldKind === "enum") return value !== field.enum.values[0].number;
  // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- a message field has presence
  return field.fieldKind === "map" || !isScalarZeroValue(scalarOf(field)!, value);
}
