import { vi } from "vitest";
import { toFake } from "../to-fake.mjs";

export const fake = () => vi.useFakeTimers({ toFake });
export const restore = () => vi.useRealTimers();
