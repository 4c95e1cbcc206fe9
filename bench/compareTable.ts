import { type CellResult, mean } from "./compareCells.js";

type Column = readonly [title: string, value: (result: CellResult) => number | null];

const columns: readonly Column[] = [
  ["held-out outcome", ({ after }) => after],
  ["steps to 0.8", ({ stepTo80 }) => stepTo80],
  ["turns, start", ({ turns }) => turns.start],
  ["turns, middle", ({ turns }) => turns.middle],
  ["turns, end", ({ turns }) => turns.end],
  ["credit, middle", ({ alignment }) => alignment?.middle ?? null],
  ["credit, end", ({ alignment }) => alignment?.end ?? null],
  ["seconds", ({ seconds }) => seconds],
];

/**
 * A Markdown table for each game, a row a cell in the given order: mean ± standard error over the seeds. Where some runs
 * have no value (never came to 0.8), the mean is over those that have, and their number follows.
 */
export function compareTable(results: readonly CellResult[], order: readonly string[]): string {
  const games = [...new Set(results.map(({ game }) => game))];
  return games
    .map((game) => {
      const title = `| ${game} | seeds | ${columns.map(([name]) => name).join(" | ")} |`;
      const rows = order.flatMap((cell) => {
        const runs = results.filter((result) => result.game === game && result.cell === cell);
        return runs.length > 0 ? [`| ${cell} | ${runs.length} | ${columns.map(describe(runs)).join(" | ")} |`] : [];
      });
      return [title, `|---|${"---|".repeat(columns.length + 1)}`, ...rows].join("\n");
    })
    .join("\n\n");
}

const describe =
  (runs: readonly CellResult[]) =>
  ([, value]: Column): string => {
    const values = runs.map(value).filter((each) => each !== null);
    if (values.length === 0) return "–";
    const all = meanAndError(values);
    return values.length === runs.length ? all : `${all} (${values.length})`;
  };

/** With as many digits as the size asks for; one value has no error. */
function meanAndError(values: readonly number[]): string {
  const average = mean(values);
  const digits = Math.abs(average) >= 10 ? 0 : Math.abs(average) >= 2 ? 2 : 3;
  if (values.length < 2) return average.toFixed(digits);
  const variance = values.reduce((sum, value) => sum + (value - average) ** 2, 0) / (values.length - 1);
  return `${average.toFixed(digits)} ± ${Math.sqrt(variance / values.length).toFixed(digits)}`;
}
