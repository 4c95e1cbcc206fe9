import { cpus, totalmem } from "node:os";
import { countCudaDevices } from "../../lib/backend/cuda/index.js";
import { cudaLibraryNames, findCudaLibrary } from "../../lib/backend/cuda/libraries.js";
import { findTfjsEngines } from "../../lib/backend/tfjs/index.js";
import { findBlas, openDevice } from "../../lib/index.js";

/** Prints what this machine offers, a line each. */
export async function doctorCommand(): Promise<void> {
  const processors = cpus();
  const blas = findBlas();
  const lines: [name: string, value: string][] = [
    ["node", `${process.version} on ${process.platform} ${process.arch}`],
    ["processor", `${processors.length} × ${processors[0]?.model.trim() ?? "unknown"}`],
    ["memory", `${(totalmem() / 2 ** 30).toFixed(1)} GiB`],
    ["BLAS", blas.library ? `${blas.library} (${blas.description})` : blas.description],
    ...blas.tried.map((tried): [string, string] => ["  looked for", tried]),
  ];
  lines.push(...(await cudaLines()));
  for (const { name, available, detail } of await findTfjsEngines()) {
    lines.push([`tfjs:${name}`, `${available ? "available" : "absent"}: ${detail}`]);
  }
  const chosen = await openDevice("auto");
  lines.push(["auto takes", `${chosen.name} (${chosen.description})`]);
  chosen.close();
  for (const [name, value] of lines) process.stdout.write(`${name.padEnd(14)}${value}\n`);
}

/** GPUs and the libraries they need, found or sought where. */
async function cudaLines(): Promise<[name: string, value: string][]> {
  const libraries = cudaLibraryNames.flatMap((name): [string, string][] => {
    const found = findCudaLibrary(name);
    if (!("tried" in found)) return [[`lib${name}`, found.path]];
    return [
      [`lib${name}`, `absent: ${found.remedy}`],
      ...found.tried.map((tried): [string, string] => ["  looked for", tried]),
    ];
  });
  const devices: [string, string][] = [];
  for (let i = 0; i < countCudaDevices(); i++) {
    try {
      // One after another: a process has one GPU open at a time.
      const backend = await openDevice(`cuda:${i}`);
      devices.push([`cuda:${i}`, backend.description]);
      backend.close();
    } catch (error) {
      devices.push([`cuda:${i}`, (error as Error).message]);
    }
  }
  return [...libraries, ...(devices.length > 0 ? devices : [["cuda", "no device"] as [string, string]])];
}
