// With `setup.mjs` (vitest.globally.config.mjs).
import { test } from "vitest";
import { define } from "../cases.mjs";
import { fake, restore } from "./fake.mjs";

define({ test, fake, restore, faked: true });
