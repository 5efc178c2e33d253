// The service that the suites of this project serve and call, without generated code.
import { create, createFileRegistry } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema, file_google_protobuf_wrappers } from "@bufbuild/protobuf/wkt";

const type = ".google.protobuf.BytesValue";
const method = (name, kind) => ({ name, inputType: type, outputType: type, ...kind });
const descriptorSet = create(FileDescriptorSetSchema, {
  file: [
    file_google_protobuf_wrappers.proto,
    {
      name: "echo.proto",
      syntax: "proto3",
      package: "runners",
      dependency: ["google/protobuf/wrappers.proto"],
      service: [
        {
          name: "Echo",
          method: [
            method("Unary"),
            method("Wait"),
            method("Count", { serverStreaming: true }),
            method("Join", { clientStreaming: true }),
            method("Chat", { clientStreaming: true, serverStreaming: true }),
          ],
        },
      ],
    },
  ],
});

export const Echo = createFileRegistry(descriptorSet).getService("runners.Echo");

let answer;

/** Answers the calls of Wait that are open. */
export const answerWaiting = () => answer?.();

export const implementation = {
  unary: ({ value }) => ({ value }),
  wait: ({ value }, { signal }) =>
    new Promise((resolve, reject) => {
      answer = () => resolve({ value });
      signal.addEventListener("abort", () => reject(signal.reason));
    }),
  async *count({ value }) {
    for (const byte of value) yield { value: Uint8Array.of(byte) };
  },
  async join(requests) {
    const all = [];
    for await (const { value } of requests) all.push(...value);
    return { value: Uint8Array.from(all) };
  },
  async *chat(requests) {
    for await (const { value } of requests) yield { value };
  },
};
