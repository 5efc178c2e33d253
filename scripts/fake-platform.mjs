// Loaded into every process of a test run (NODE_OPTIONS=--import=…) by scripts/test.mjs: the package takes this system
// for the one that ISTHMUS_TEST_PLATFORM names, such as darwin. Node itself does not: it has looked before.
Object.defineProperty(process, "platform", { value: process.env.ISTHMUS_TEST_PLATFORM, enumerable: true });
