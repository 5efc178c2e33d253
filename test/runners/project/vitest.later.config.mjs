export default { test: { include: ["vitest/later.test.mjs"], testTimeout: 120_000 } };
