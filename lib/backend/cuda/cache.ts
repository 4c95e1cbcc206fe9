import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, unlink, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

const MAGIC = "itpo cache 1\n";
const DIGEST_BYTES = 32;

/** Path of a file in the folder for what was computed for a GPU and can be used again: `ITPO_CACHE` or the user's cache. */
export function cacheFile(name: string): string {
  const base = process.env.ITPO_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "itpo");
  return join(base, "cuda", name);
}

export function digest(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes).digest();
}

/** What a cache file holds, or undefined where there is none or it is damaged. */
export function readCached(path: string): Uint8Array | undefined {
  let file: Buffer;
  try {
    file = readFileSync(path);
  } catch {
    return undefined;
  }
  const start = MAGIC.length + DIGEST_BYTES;
  const content = file.subarray(start);
  const whole =
    file.subarray(0, MAGIC.length).toString("latin1") === MAGIC &&
    file.length > start &&
    digest(content).equals(file.subarray(MAGIC.length, start));
  return whole ? new Uint8Array(content) : undefined;
}

/** Writes under another name first: a reader never sees half a file, and two writers do not meet. */
export function store(path: string, content: Uint8Array): void {
  const temporary = `${path}.${process.pid}`;
  try {
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(temporary, Buffer.concat([Buffer.from(MAGIC, "latin1"), digest(content), content]));
    renameSync(temporary, path);
  } catch {
    // A folder that cannot be written, or a full disk, costs the time of computing it again, nothing else.
    unlink(temporary, () => {});
  }
}
