/** All topics, as suites over the carriers that a test file names. */
import { describe } from "node:test";
import { loadAddon } from "../../../src/os/addon.js";
import type { CarrierName } from "../../support/scenes.js";
import { Scene } from "../../support/scenes.js";
import { suiteOwner } from "../../support/temp.js";
import { PLACES } from "../../support/test-server.js";
import { deaths } from "./deaths.js";
import { ending } from "./ending.js";
import { errors } from "./errors.js";
import { flow } from "./flow.js";
import { interceptors } from "./interceptors.js";
import { kinds } from "./kinds.js";
import { limits } from "./limits.js";
import { metadata } from "./metadata.js";
import { payloads } from "./payloads.js";

const TOPICS = { kinds, metadata, errors, ending, flow, limits, interceptors, payloads, deaths };

function missing(carrier: CarrierName): string | false {
  return carrier === "shared memory" ? (loadAddon().reason ?? false) : false;
}

export function overCarriers(...carriers: readonly CarrierName[]): void {
  for (const [carrier, place] of carriers.flatMap((carrier) => PLACES.map((place) => [carrier, place] as const))) {
    describe(`${carrier}, ${place}`, { skip: missing(carrier) }, () => {
      const scene = new Scene(suiteOwner(), carrier, place);
      for (const [topic, body] of Object.entries(TOPICS)) {
        describe(`${topic} over ${carrier}, ${place}`, () => body(scene));
      }
    });
  }
}
