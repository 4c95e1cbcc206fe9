import { randomUUID } from "node:crypto";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { InputError } from "./errors.js";

/**
 * Makes a folder and what is missing above it. Node's recursive `mkdir` never returns where none can be made (in /proc).
 * @throws the file system's error.
 */
export async function makeFolders(path: string): Promise<void> {
  const make = () =>
    mkdir(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
  await make().catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" || dirname(path) === path) throw error;
    await makeFolders(dirname(path));
    await make();
  });
}

/**
 * Writes a file, and the folders above it, so that a reader sees the old contents or the new, never half. Text ends in a
 * line feed.
 * @throws InputError where it cannot be written.
 */
export function writeWhole(path: string, contents: string | Uint8Array): Promise<void> {
  return writeTogether([[path, contents]]);
}

/**
 * The same for files that belong together: none is replaced before all are written.
 * @throws InputError where one cannot be written.
 */
export async function writeTogether(
  files: Iterable<readonly [path: string, contents: string | Uint8Array]>,
): Promise<void> {
  const written: [beside: string, path: string][] = [];
  let current = "";
  try {
    for (const [path, contents] of files) {
      current = path;
      const beside = `${path}.${randomUUID().slice(0, 8)}.tmp`;
      await makeFolders(dirname(path));
      written.push([beside, path]);
      const lacksEnd = typeof contents === "string" && !contents.endsWith("\n");
      await writeFile(beside, lacksEnd ? `${contents}\n` : contents);
    }
    for (const [beside, path] of written) {
      current = path;
      await rename(beside, path);
    }
  } catch (error) {
    for (const [beside] of written) await rm(beside, { force: true }).catch(() => {});
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === undefined) throw error;
    throw new InputError(`${current}: cannot be written (${message}); make room or choose another folder`);
  }
}
