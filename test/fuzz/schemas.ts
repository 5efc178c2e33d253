/** What is fuzzed: every message of `test/proto/codec`, and the pairs of them that read each other's bytes. */
import type { DescExtension, DescFile, DescMessage } from "@bufbuild/protobuf";
import { nestedTypes } from "@bufbuild/protobuf/reflect";
import { file_test_proto_codec_edition2024 } from "../proto/codec/edition2024_pb.js";
import { file_test_proto_codec_editions } from "../proto/codec/editions_pb.js";
import { file_test_proto_codec_known } from "../proto/codec/known_pb.js";
import { file_test_proto_codec_legacy } from "../proto/codec/legacy_pb.js";
import { file_test_proto_codec_mismatch } from "../proto/codec/mismatch_pb.js";
import { file_test_proto_codec_modern } from "../proto/codec/modern_pb.js";

const files: readonly DescFile[] = [
  file_test_proto_codec_modern,
  file_test_proto_codec_legacy,
  file_test_proto_codec_editions,
  file_test_proto_codec_edition2024,
  file_test_proto_codec_known,
  file_test_proto_codec_mismatch,
];

/** Every message of the files, those within messages too. */
export const schemas: readonly DescMessage[] = files.flatMap((file) =>
  [...nestedTypes(file)].filter((type) => type.kind === "message"),
);

/** Extensions by the type name that they extend. */
export const extensions: ReadonlyMap<string, readonly DescExtension[]> = groupByExtendee();

function groupByExtendee(): Map<string, DescExtension[]> {
  const groups = new Map<string, DescExtension[]>();
  for (const type of files.flatMap((file) => [...nestedTypes(file)])) {
    if (type.kind !== "extension") continue;
    const group = groups.get(type.extendee.typeName);
    if (group === undefined) groups.set(type.extendee.typeName, [type]);
    else group.push(type);
  }
  return groups;
}

/** Messages whose fields have the same numbers and other types. */
export const mismatched: readonly DescMessage[] = schemas.filter(
  (schema) =>
    schema.file === file_test_proto_codec_mismatch || ["Groups", "Delimited", "Payloads", "Tree"].includes(schema.name),
);
