/**
 * The status of a failed call on the wire: a `google.rpc.Status` message
 * (int32 code = 1; string message = 2; repeated google.protobuf.Any details = 3), as in gRPC's rich errors.
 */
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

export interface WireStatus {
  readonly code: number;
  readonly message: string;
  readonly details: readonly WireDetail[];
}

export interface WireDetail {
  /** Full name of the message type, without a URL prefix. */
  readonly type: string;
  readonly value: Uint8Array;
}

const TYPE_URL_PREFIX = "type.googleapis.com/";

export function encodeStatus(status: WireStatus): Uint8Array {
  const writer = new BinaryWriter();
  writer.tag(1, WireType.Varint).int32(status.code);
  writer.tag(2, WireType.LengthDelimited).string(status.message);
  for (const detail of status.details) {
    writer.tag(3, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.LengthDelimited).string(TYPE_URL_PREFIX + detail.type);
    writer.tag(2, WireType.LengthDelimited).bytes(detail.value);
    writer.join();
  }
  return writer.finish();
}

/** @param bytes private memory. @throws Error if they are not a status */
export function decodeStatus(bytes: Uint8Array): WireStatus {
  const reader = new BinaryReader(bytes);
  const details: WireDetail[] = [];
  let code = 0;
  let message = "";
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1 && wireType === WireType.Varint) code = reader.int32();
    else if (field === 2 && wireType === WireType.LengthDelimited) message = reader.string();
    else if (field === 3 && wireType === WireType.LengthDelimited) details.push(decodeDetail(reader.bytes()));
    else reader.skip(wireType, field);
  }
  return { code, message, details };
}

function decodeDetail(bytes: Uint8Array): WireDetail {
  const reader = new BinaryReader(bytes);
  let type = "";
  let value: Uint8Array = new Uint8Array(0);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1 && wireType === WireType.LengthDelimited) type = reader.string();
    else if (field === 2 && wireType === WireType.LengthDelimited) value = reader.bytes();
    else reader.skip(wireType, field);
  }
  return { type: type.slice(type.lastIndexOf("/") + 1), value };
}
