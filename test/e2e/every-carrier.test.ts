/**
 * What a user sees of calls and streams, over every carrier, in one process and between two: the bodies are in
 * `every-carrier/`, one file per topic. They know only Connect's interfaces, and where Isthmus does more, `Scene` says
 * so.
 */
import { describe } from "node:test";
import { loadAddon } from "../../src/os/addon.js";
import { CARRIERS, Scene } from "../support/scenes.js";
import type { CarrierName } from "../support/scenes.js";
import { suiteOwner } from "../support/temp.js";
import { PLACES } from "../support/test-server.js";
import { deaths } from "./every-carrier/deaths.js";
import { ending } from "./every-carrier/ending.js";
import { errors } from "./every-carrier/errors.js";
import { flow } from "./every-carrier/flow.js";
import { interceptors } from "./every-carrier/interceptors.js";
import { kinds } from "./every-carrier/kinds.js";
import { limits } from "./every-carrier/limits.js";
import { metadata } from "./every-carrier/metadata.js";
import { payloads } from "./every-carrier/payloads.js";

const TOPICS = { kinds, metadata, errors, ending, flow, limits, interceptors, payloads, deaths };

function missing(carrier: CarrierName): string | false {
  return carrier === "shared memory" ? (loadAddon().reason ?? false) : false;
}

for (const carrier of CARRIERS) {
  for (const place of PLACES) {
    describe(`${carrier}, ${place}`, { skip: missing(carrier) }, () => {
      const scene = new Scene(suiteOwner(), carrier, place);
      for (const [topic, body] of Object.entries(TOPICS)) {
        describe(`${topic} over ${carrier}, ${place}`, () => body(scene));
      }
    });
  }
}
