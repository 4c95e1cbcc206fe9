/*
 * Credits × estimators × forms of RLOO on a conversation game, several seeds each: what outcome, how fast, in how many
 * turns, and whether the credit fell on the useful turn.
 *
 *     npm run bench -- compare [--game quickstart|smalltalk|all] [--seeds 0-4] [--cells TEXT,…] [--jobs N] [--minutes M]
 *         [--out FILE.jsonl] [--table] [key.path=value…]
 *
 * Every run is a process on one thread, at most `jobs` (default: one a processor) at once. A finished run is a line of the
 * file (default compare.jsonl); the same command again does what is missing. After M minutes, or on Ctrl-C, runs in flight are
 * given up. `--cells` takes those whose name has one of the texts in it, `--table` runs nothing; the file's table comes last.
 */
import { fork } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { openJsonLines, readJsonLines } from "../rl/report/jsonLines.js";
import { type CellResult, cells } from "./compareCells.js";
import { compareTable } from "./compareTable.js";

const { values: flags, positionals: overrides } = parseArgs({
  allowPositionals: true,
  options: {
    game: { type: "string", default: "all" },
    seeds: { type: "string", default: "0-4" },
    cells: { type: "string", default: "" },
    jobs: { type: "string", default: String(availableParallelism()) },
    minutes: { type: "string", default: "Infinity" },
    out: { type: "string", default: "compare.jsonl" },
    table: { type: "boolean", default: false },
  },
});
const games = flags.game === "all" ? ["quickstart", "smalltalk"] : [flags.game];
const [firstSeed, lastSeed = firstSeed] = flags.seeds.split("-").map(Number);
const seeds = Array.from({ length: lastSeed - firstSeed + 1 }, (_, i) => firstSeed + i);
const named = [...cells.keys()].filter((cell) => flags.cells.split(",").some((text) => cell.includes(text)));

type Job = Pick<CellResult, "game" | "cell" | "seed">;
const keyOf = ({ game, cell, seed }: Job) => `${game} ${cell} ${seed}`;

if (!flags.table) await runAll();
console.log(compareTable(readJsonLines<CellResult>(flags.out), [...cells.keys()]));

async function runAll(): Promise<void> {
  const done = new Set(readJsonLines<CellResult>(flags.out).map(keyOf));
  const jobs = seeds
    .flatMap((seed) => games.flatMap((game) => named.map((cell): Job => ({ game, cell, seed }))))
    .filter((job) => !done.has(keyOf(job)));
  const folder = mkdtempSync(join(tmpdir(), "itpo-compare-"));
  const file = openJsonLines(flags.out);
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), Math.min(Number(flags.minutes) * 60_000, 2 ** 31 - 1));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
  const total = jobs.length;
  let finished = 0;
  const worker = async () => {
    for (let job = jobs.shift(); job && !stop.signal.aborted; job = jobs.shift()) {
      const result = await run(job, folder, stop.signal);
      if (!result) continue;
      file.append([result]);
      const { after, seconds, turns } = result;
      console.error(
        `${++finished}/${total} ${keyOf(job)}: ${after.toFixed(3)}, ${turns.end.toFixed(2)} turns, ${seconds.toFixed(0)} s`,
      );
    }
  };
  await Promise.all(Array.from({ length: Number(flags.jobs) }, worker));
  clearTimeout(timer);
  file.close();
  rmSync(folder, { recursive: true });
  if (finished < total) console.error(`${total - finished} runs are missing; the same command goes on with them`);
}

/** Undefined where the run was given up or failed; a failure is printed by the run. */
function run({ game, cell, seed }: Job, folder: string, signal: AbortSignal): Promise<CellResult | undefined> {
  const child = fork(
    fileURLToPath(new URL("compareRun.js", import.meta.url)),
    [folder, game, cell, String(seed), ...overrides],
    { env: { ...process.env, OPENBLAS_NUM_THREADS: "1", OMP_NUM_THREADS: "1", MKL_NUM_THREADS: "1" } },
  );
  const kill = () => child.kill("SIGKILL");
  signal.addEventListener("abort", kill, { once: true });
  return new Promise((resolve) => {
    let result: CellResult | undefined;
    child.on("message", (line) => {
      result = line as CellResult;
    });
    child.on("close", (code) => {
      signal.removeEventListener("abort", kill);
      if (!result && !signal.aborted) console.error(`${game} ${cell} ${seed}: failed with code ${code}`);
      resolve(result);
    });
  });
}
