export default {
  test: { include: ["vitest/globally.test.mjs"], setupFiles: ["vitest/setup.mjs"], testTimeout: 120_000 },
};
