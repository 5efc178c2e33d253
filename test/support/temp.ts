/** Folders that exist for one test. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";

/** Something that runs functions when it ends: a test's context, or `suiteOwner`. */
export interface Owner {
  after(clean: () => unknown): void;
}

/** An owner for what a whole suite shares; call it in the suite's body, not in a hook. The last one cleans first. */
export function suiteOwner(): Owner {
  const cleaners: (() => unknown)[] = [];
  after(async () => {
    for (const clean of cleaners.reverse()) await clean();
  });
  return { after: (clean) => cleaners.push(clean) };
}

export function tempFolder(owner: Owner): string {
  const folder = mkdtempSync(join(tmpdir(), "isthmus-"));
  owner.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A path in a new folder of its own that no socket has yet. */
export function tempSocket(owner: Owner): string {
  return join(tempFolder(owner), "server.sock");
}
