// Routes of worker threads in TypeScript, run by tsx on Node 20, where its loader does not reach the threads by itself.
import { register } from "tsx/esm/api";

register();
const module = await import(process.env.MATRIX_ROUTES);
// Of CommonJS, `default` is what it exports.
export const routes = module.routes ?? module.default.routes;
