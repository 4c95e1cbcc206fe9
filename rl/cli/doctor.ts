import { cpus, totalmem } from "node:os";
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
  for (const { name, available, detail } of await findTfjsEngines()) {
    lines.push([`tfjs:${name}`, `${available ? "available" : "absent"}: ${detail}`]);
  }
  const chosen = await openDevice("auto");
  lines.push(["auto takes", `${chosen.name} (${chosen.description})`]);
  chosen.close();
  for (const [name, value] of lines) process.stdout.write(`${name.padEnd(14)}${value}\n`);
}
