/** The detector: looks at frames where the camera wrote them. Usage: node server.js SOCKET */
import { Code, ConnectError } from "@connectrpc/connect";
import { createIsthmusServer, release } from "../../src/index.js";
import { DetectorService } from "./camera_pb.js";
import { findBright } from "./frames.js";

const server = createIsthmusServer({
  routes: (router) =>
    router.service(DetectorService, {
      detect(frame) {
        const { sequence, rgb, width, height } = frame;
        try {
          const box = findBright(rgb, width, height);
          return { sequence, ...(box === undefined ? {} : { box }) };
        } catch (error) {
          throw new ConnectError((error as Error).message, Code.InvalidArgument);
        } finally {
          // The camera can reuse the memory at once. Without this, it could only once the frame is garbage.
          release(frame);
        }
      },
    }),
});
await server.listen(process.argv[2]);
process.once("SIGTERM", () => void server.close());
