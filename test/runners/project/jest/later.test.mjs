import { jest, test } from "@jest/globals";
import { define, errorsAreKnown } from "../cases.mjs";

define({ test, fake: () => jest.useFakeTimers(), restore: () => jest.useRealTimers(), faked: false });

test("errors of the system are known although this realm has classes of its own", errorsAreKnown);
