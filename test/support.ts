import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

function findRoot(directory: string): string {
  return existsSync(join(directory, "package.json")) ? directory : findRoot(dirname(directory));
}

/** The package's root folder. */
export const root = findRoot(dirname(fileURLToPath(import.meta.url)));

/** Path of a file under test/fixtures. */
export function fixture(...parts: string[]): string {
  return join(root, "test", "fixtures", ...parts);
}
