/** Which runtime this is: some offer Node's modules, and do a few things differently below them. */

/** The runtime's name, if it is one that only looks like Node. */
export const otherRuntime: "Bun" | "Deno" | undefined = nameOf(process.versions);

function nameOf(versions: NodeJS.ProcessVersions): "Bun" | "Deno" | undefined {
  if (versions["bun"] !== undefined) return "Bun";
  if (versions["deno"] !== undefined || "Deno" in globalThis) return "Deno";
  return undefined;
}
