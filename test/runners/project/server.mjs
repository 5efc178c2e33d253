// A server in a process of its own, where nothing is faked.
import { createIsthmusServer } from "isthmus";
import { Echo, implementation } from "./echo.mjs";

await createIsthmusServer({ routes: (router) => router.service(Echo, implementation) }).listen(process.argv[2]);
process.send("listening");
process.on("disconnect", () => process.exit());
