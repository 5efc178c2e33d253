// With `fakeTimers: { enableGlobally: true }` (jest.globally.json).
import { jest, test } from "@jest/globals";
import { define } from "../cases.mjs";

define({ test, fake: () => jest.useFakeTimers(), restore: () => jest.useRealTimers(), faked: true });
