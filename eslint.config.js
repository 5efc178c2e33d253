import eslint from "@eslint/js";
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["dist/", "build/", "prebuilds/", "test/matrix/", "examples/starter/", "**/*_pb.ts"] },
  eslint.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/no-explicit-any": "error",
      "@typescript-eslint/no-non-null-assertion": "off",
      "@typescript-eslint/consistent-type-imports": "error",
      "@typescript-eslint/restrict-template-expressions": [
        "error",
        { allowNumber: true, allowBoolean: true, allowNullish: true, allowArray: true, allowAny: false },
      ],
      // `return this.end()` leaves a function early in one step.
      "@typescript-eslint/no-confusing-void-expression": "off",
      // `void` marks an expression that is evaluated for its effect, such as a getter's.
      "@typescript-eslint/no-meaningless-void-operator": "off",
      // Objects of other packages and of older Nodes are known by what they have.
      "@typescript-eslint/no-unsafe-class-instance-assignment": "off",
      "@typescript-eslint/no-extraneous-class": ["error", { allowConstructorOnly: true }],
      // A type that only the caller can know, as the type of a reply.
      "@typescript-eslint/no-unnecessary-type-parameters": "off",
      // Fields change in calls whose effect the compiler does not follow, and users' values are not what types promise.
      "@typescript-eslint/no-unnecessary-condition": "off",
      "@typescript-eslint/no-unnecessary-type-conversion": "off",
      // Codes come from the wire as numbers, and are checked there.
      "@typescript-eslint/no-unsafe-enum-assignment": "off",
      "@typescript-eslint/switch-exhaustiveness-check": ["error", { considerDefaultExhaustiveForUnions: true }],
      // node:test's describe/test return promises that the runner owns.
      "@typescript-eslint/no-floating-promises": [
        "error",
        {
          allowForKnownSafeCalls: [
            { from: "package", package: "node:test", name: ["describe", "test", "it", "suite"] },
          ],
        },
      ],
      "no-restricted-syntax": [
        "error",
        { selector: "TSEnumDeclaration", message: "use a const object: no runtime enums" },
      ],
      eqeqeq: "error",
      // The formatter breaks lines there, and every statement ends with a semicolon.
      "no-unexpected-multiline": "off",
    },
  },
  {
    files: ["src/**/*.ts"],
    ignores: ["src/**/*.test.ts", "src/**/*.test.util.ts"],
    rules: {
      // A test runner may have replaced them: see src/os/timers.ts.
      "no-restricted-globals": [
        "error",
        ...[
          "setTimeout",
          "clearTimeout",
          "setInterval",
          "clearInterval",
          "setImmediate",
          "clearImmediate",
          "queueMicrotask",
          "performance",
        ].map((name) => ({
          name,
          message: "import it from src/os/timers.ts, which test runners cannot fake",
        })),
      ],
      "no-restricted-imports": ["error", { paths: ["node:timers", "node:timers/promises", "node:perf_hooks"] }],
      // Where a value cannot be missing, the type says so, or a comment says what guarantees it.
      "@typescript-eslint/no-non-null-assertion": "error",
      "@typescript-eslint/max-params": ["error", { max: 5 }],
    },
  },
  { files: ["src/os/timers.ts"], rules: { "no-restricted-imports": "off", "no-restricted-globals": "off" } },
  {
    files: ["**/*.{js,mjs}"],
    languageOptions: { globals: { process: "readonly", console: "readonly", URL: "readonly" } },
  },
);
