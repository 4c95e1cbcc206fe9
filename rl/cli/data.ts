import { join } from "node:path";
import { datasetByName } from "../../data/datasets.js";
import { type PrepareReport, prepare } from "../../data/prepare.js";
import { InputError } from "../../lib/index.js";
import { downloadWithProgress } from "./download.js";
import { numberOption } from "./number.js";
import { progressLine } from "./progress.js";

export interface PrepareCommandOptions {
  readonly input?: string;
  readonly validation?: string;
  readonly output?: string;
  readonly heldOut: string;
  readonly seed: string;
  readonly taskDesc?: string;
  readonly keepSharedOpenings?: boolean;
  readonly revision?: string;
}

/** `itpo data prepare NAME`. */
export async function prepareCommand(name: string, options: PrepareCommandOptions): Promise<void> {
  const heldOut = numberOption("--held-out", options.heldOut, { least: 1e-9, whole: false });
  const seed = numberOption("--seed", options.seed, { least: 0 });
  const output = options.output ?? join("datasets", name);
  const input = options.input ?? (await download(name, join(output, "source"), options.revision));
  const line = progressLine();
  const onRead = (file: string, rows: number) => line.show(`${file}  ${rows.toLocaleString("en-US")} rows`);
  try {
    const report = await prepare(name, { ...options, input, output, heldOut, seed, onRead });
    line.clear();
    process.stdout.write(`${formatReport(report, output)}\n`);
  } finally {
    line.clear();
  }
}

/** Fetches the dataset from the Hub and gives the folder. */
async function download(name: string, folder: string, revision: string | undefined): Promise<string> {
  const { repo, home } = datasetByName(name);
  if (!repo) throw new InputError(`${name} is not on the Hub; get its files from ${home} and name them by --input`);
  const wants = (path: string) => /\.(parquet|jsonl|ndjson)$/i.test(path);
  await downloadWithProgress({ type: "dataset", repo, folder, revision, wants });
  return folder;
}

/** What was read, what became of it and why the rest did not, as a table. */
export function formatReport({ read, written, dropped }: PrepareReport, output: string): string {
  const entries: [number, string][] = [
    ...Object.entries(read).map(([file, n]): [number, string] => [n, `read from ${file}`]),
    ...Object.entries(written).map(([file, n]): [number, string] => [n, `written to ${join(output, file)}`]),
    ...Object.entries(dropped.rl).map(([why, n]): [number, string] => [n, `no task: ${why}`]),
    ...Object.entries(dropped.sft).map(([why, n]): [number, string] => [n, `no dialogue: ${why}`]),
  ];
  const width = Math.max(...entries.map(([n]) => n.toLocaleString("en-US").length), "rows".length);
  const line = (count: string, what: string) => `${count.padStart(width)}  ${what}`;
  return [line("rows", ""), ...entries.map(([n, what]) => line(n.toLocaleString("en-US"), what))]
    .map((text) => text.trimEnd())
    .join("\n");
}
