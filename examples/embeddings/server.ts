/** Keeps an index of vectors. Usage: node server.js SOCKET */
import { Code, ConnectError } from "@connectrpc/connect";
import { packed } from "../../src/codec/index.js";
import { createIsthmusServer } from "../../src/index.js";
import { EmbeddingIndexService, QuerySchema, VectorsSchema } from "./embeddings_pb.js";
import { VectorIndex } from "./vectors.js";

let index: VectorIndex | undefined;
const server = createIsthmusServer({
  // A batch is read once, so its memory can go back as soon as the handler returns.
  leases: "scoped",
  routes: (router) =>
    router.service(EmbeddingIndexService, {
      add(request) {
        index ??= new VectorIndex(request.dimensions);
        // The floats where the client wrote them, not a list of numbers.
        const values = packed(request, VectorsSchema.field.values) as Float32Array;
        if (request.dimensions !== index.dimensions || values.length % index.dimensions !== 0) {
          throw new ConnectError(`expected vectors of ${index.dimensions} dimensions`, Code.InvalidArgument);
        }
        index.add(values);
        return { count: index.count };
      },
      topK(request) {
        const query = packed(request, QuerySchema.field.values) as Float32Array;
        if (query.length !== index?.dimensions)
          throw new ConnectError(`expected a vector of ${index?.dimensions ?? "no"} dimensions`, Code.InvalidArgument);
        return { matches: index.topK(query, request.k) };
      },
    }),
});
await server.listen(process.argv[2]);
process.once("SIGTERM", () => void server.close());
