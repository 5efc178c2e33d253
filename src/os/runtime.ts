/** Detects runtimes that offer Node's modules but differ in what is below them. */

/** The runtime's name if it is not Node; undefined on Node. */
export const otherRuntime: "Bun" | "Deno" | undefined = nameOf(process.versions);

function nameOf(versions: NodeJS.ProcessVersions): "Bun" | "Deno" | undefined {
  if (versions["bun"] !== undefined) return "Bun";
  if (versions["deno"] !== undefined || "Deno" in globalThis) return "Deno";
  return undefined;
}
