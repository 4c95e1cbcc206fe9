import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { stringify } from "yaml";
import { InputError } from "../lib/index.js";
import { writeWhole } from "../models/index.js";

/** Makes `output/name`, or `output/name-2`, `-3`, … where runs stand already: a run never overwrites another. */
export async function makeRunFolder(output: string, name: string): Promise<string> {
  try {
    await makeFolders(output);
    for (let i = 1; ; i++) {
      const folder = join(output, i === 1 ? name : `${name}-${i}`);
      const made = await mkdir(folder).then(
        () => true,
        (error: NodeJS.ErrnoException) => {
          if (error.code !== "EEXIST") throw error;
          return false;
        },
      );
      if (made) return folder;
    }
  } catch (error) {
    throw new InputError(`${output}: runs cannot be written there (${(error as Error).message}); set output=FOLDER`);
  }
}

/** Makes a folder and what is missing above it. Node's recursive `mkdir` never returns where none can be made (in /proc). */
async function makeFolders(path: string): Promise<void> {
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

/** Writes the resolved config beside the run's results; `itpo train` takes the file back. */
export function writeConfig(folder: string, config: unknown): Promise<void> {
  return writeWhole(join(folder, "config.yaml"), stringify(config));
}
