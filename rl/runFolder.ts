import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { stringify } from "yaml";
import { InputError, makeFolders, writeWhole } from "../lib/index.js";

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

/** Writes the resolved config beside the run's results; `itpo train` takes the file back. */
export function writeConfig(folder: string, config: unknown): Promise<void> {
  return writeWhole(join(folder, "config.yaml"), stringify(config));
}
