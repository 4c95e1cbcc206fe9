/**
 * One run of `compare`, as a process of its own: FOLDER GAME CELL SEED [key.path=value…]. Tells its parent the result, or
 * standard output where there is none; ends with the parent.
 */
import { loadTrainConfig } from "../rl/config.js";
import { train } from "../rl/run.js";
import { cellResult, cells } from "./compareCells.js";

const [folder, game, cell, seed, ...overrides] = process.argv.slice(2);
const parent = process.ppid;
/** Where the live line would go. Training leaves the event loop no turn in which "disconnect" could come. */
const watch = () => {
  if (process.send && process.ppid !== parent) process.exit(1);
};
const own = [`seed=${seed}`, `output=${folder}`, ...cells.get(cell)!, ...overrides];
const result = await train(await loadTrainConfig(game, own), { print: () => {}, stream: { write: watch } });
const line = cellResult({ game, cell, seed: Number(seed), overrides }, result);
if (process.send) process.send(line, () => process.exit());
else console.log(JSON.stringify(line));
