import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { compareEvaluations, comparisonRows } from "../evaluation/compare.js";
import { readEvaluation } from "../evaluation/record.js";
import { textTable } from "../evaluation/table.js";
import { writeComparisonPage } from "../report/evaluationPage.js";
import { readTranscripts } from "../report/transcript.js";

/** Puts two evaluations side by side, in a table and a page inside the second one's folder. */
export async function compareCommand(first: string, second: string): Promise<void> {
  const names = [basename(resolve(first)), basename(resolve(second))] as const;
  const comparison = compareEvaluations(await readEvaluation(first), await readEvaluation(second), names);
  const file = `against-${names[0]}.html`;
  await writeComparisonPage(second, file, comparison, [readTranscripts(first), readTranscripts(second)]);
  process.stdout.write(
    `${comparison.prompts} prompts that both have\n${textTable(comparisonRows(comparison))}\nside by side: ${pathToFileURL(join(second, file))}\n`,
  );
}
