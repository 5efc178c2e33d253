/** What a user sees of calls and streams over TCP and HTTP: the bodies are in `test/e2e/every-carrier/`. */
import { overCarriers } from "../e2e/every-carrier/topics.js";

overCarriers("TCP socket", "HTTP/2");
