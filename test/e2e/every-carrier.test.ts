/**
 * What a user sees of calls and streams, over the carriers of one machine, in one process and between two: the
 * bodies are in `every-carrier/`, one file per topic. They know only Connect's interfaces, and where Isthmus does more, `Scene` says
 * so.
 */
import { overCarriers } from "./every-carrier/topics.js";

overCarriers("shared memory", "Unix socket");
