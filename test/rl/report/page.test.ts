import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Script } from "node:vm";
import test from "ava";
import { REPORT_FILE, type Report, renderReport, writeReport } from "../../../rl/report/page.js";
import { SCRIPT } from "../../../rl/report/script.js";
import { exampleRun } from "./exampleRun.js";

interface PageData {
  charts: { x: [number, number]; charts: { series: { name: string; steps: number[]; values: (number | null)[] }[] }[] };
  transcripts: {
    transcripts: {
      name: string;
      task: number;
      outcome: number | null;
      metrics: Record<string, number>;
      verdict: string;
      stage: string;
      band: string;
      messages: { speaker: string; content: string; reward?: number; largest?: boolean; stop?: string }[];
    }[];
    stages: string[];
    bands: string[];
    rewardScale: number;
  };
}

/** The page's JSON elements as the browser finds them. */
function dataOf(page: string): PageData {
  const json = (id: string) =>
    new RegExp(`<script type="application/json" id="${id}">(.*?)</script>`, "s").exec(page)![1];
  return { charts: JSON.parse(json("charts")), transcripts: JSON.parse(json("transcripts")) };
}

function stepOf({ name }: { name: string }): number {
  return Number(/^step (\d+)/.exec(name)?.[1]);
}

/** The text of the page's elements, without scripts and styles. */
function textOf(page: string): string {
  const body = page.replace(/<(script|style)[^>]*>.*?<\/\1>/gs, "");
  return body.replace(/<[^>]*>/g, " ").replace(/\s+/g, " ");
}

const small: Report = {
  title: "tiny",
  steps: 20,
  facts: { device: "cpu, 2 cores", engine: "OpenBLAS", model: "98.7k", seed: 7 },
  ceilings: [{ label: "best fixed script", value: 0.375 }],
  config: { seed: 7, policy: { lr: 0.0007, betas: [0.9, 0.95] }, user: { api_key: "sk-123", max_tokens: 12 } },
  metrics: [
    { step: 0, time: 1, "outcome/mean": 0.25, "held_out/outcome": 0.3125, "rollout/tokens_per_s": 4000 },
    {
      step: 10,
      time: 66,
      "outcome/mean": 0.9,
      "held_out/outcome": 0.953,
      "rollout/tokens_per_s": 5000,
      "prm/loss": null,
    },
  ],
  transcripts: [],
};

test("the page holds the headline numbers, the facts and the config", (t) => {
  const text = textOf(renderReport(small));
  const expected = [
    "tiny step 10 of 20",
    "device cpu, 2 cores",
    "engine OpenBLAS",
    "seed 7",
    "duration 1:06",
    "Held-out outcome 0.313 → 0.953 step 0 → 10",
    "best fixed script 0.375",
    "Tokens a second 5,000",
    "6.500 s a step",
    "lr 0.0007",
    "betas [0.9,0.95]",
    "max_tokens 12",
    "Not finite 1 value prm/loss",
  ];
  for (const part of expected) t.true(text.includes(part), `${part} in ${text}`);
});

test("secrets of the config are not shown", (t) => {
  const page = renderReport(small);
  t.false(page.includes("sk-123"));
  t.true(textOf(page).includes("api_key (hidden)"));
});

test("every metric is in a chart, with its values", (t) => {
  const report = exampleRun(20);
  const page = renderReport(report);
  const { charts } = dataOf(page);
  t.is(page.match(/<figure /g)?.length, charts.charts.length, "the script finds its data by position");
  const curves = charts.charts.flatMap((chart) => chart.series);
  const keys = Object.keys(report.metrics[0]).filter((key) => key !== "step" && key !== "time");
  t.is(curves.length, keys.length);
  const heldOut = charts.charts[0].series[1];
  const rows = report.metrics.filter((row) => row["held_out/outcome"] !== undefined);
  t.is(heldOut.name, "held-out");
  t.deepEqual(
    heldOut.steps,
    rows.map((row) => row.step),
  );
  for (const [i, row] of rows.entries()) t.true(Math.abs(heldOut.values[i]! - row["held_out/outcome"]!) < 1e-5);
});

const ATTACK = `</script><script>alert(1)</script><img src=x onerror="alert(2)">'"&<!--`;

test("no text of a model, a config or a name becomes markup", (t) => {
  const message = { role: ATTACK, content: ATTACK, stop: ATTACK, reward: 1, tokens: [{ text: ATTACK, score: 1 }] };
  const transcript = { step: 1, label: ATTACK, task: 1, sample: 0, outcome: 1, metrics: { [ATTACK]: 1 }, stop: ATTACK };
  const page = renderReport({
    title: ATTACK,
    config: { [ATTACK]: { [ATTACK]: ATTACK, list: [ATTACK] } },
    facts: { [ATTACK]: ATTACK },
    ceilings: [{ label: ATTACK, value: 0.5 }],
    metrics: [{ step: 1, time: 1, [`${ATTACK}/${ATTACK}`]: 1, [`credit/${ATTACK}`]: null, "outcome/mean": 0.2 }],
    transcripts: [{ ...transcript, messages: [message] }],
  });
  const attack = /<(script>alert|img|!--)/;
  t.false(attack.test(page), page.slice(page.search(attack) - 80, page.search(attack) + 80));
  t.is(page.match(/<script/g)?.length, 3);
  t.is(page.match(/<\/script/g)?.length, 3);
  const [read] = dataOf(page).transcripts.transcripts;
  t.is(read.messages[0].content, ATTACK, "and yet nothing of it is lost");
  t.deepEqual(read.metrics, { [ATTACK]: 1 });
});

test("the page's own script is the only one its policy lets run, and it never parses HTML", (t) => {
  const page = renderReport(exampleRun(8));
  const script = /<script>(.*?)<\/script>/s.exec(page)![1];
  const hash = createHash("sha256").update(script).digest("base64").replaceAll("'", "&#39;");
  t.true(page.includes(`script-src &#39;sha256-${hash}&#39;`));
  t.notThrows(() => new Script(SCRIPT));
  t.notRegex(SCRIPT, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function/);
});

test("the page needs no network", (t) => {
  t.notRegex(renderReport(exampleRun(8)), /https?:|\bsrc=|@import|url\(/);
});

test("conversations are sorted into stages of the training, labels and outcomes", (t) => {
  const report = exampleRun(80);
  const { transcripts, stages, bands, rewardScale } = dataOf(renderReport(report)).transcripts;
  t.deepEqual(stages, ["early", "middle", "late", "held-out"]);
  t.deepEqual(bands, ["outcome 1", "outcome 0"]);
  t.true(transcripts.every((each) => each.name.endsWith(", held-out") === (each.stage === "held-out")));
  const late = transcripts.filter((each) => each.stage === "late");
  t.true(late.length > 0 && late.every((each) => stepOf(each) >= 53));
  t.true(transcripts.every((each) => each.band === `outcome ${each.outcome}`));
  const rewards = report.transcripts.flatMap((each) => each.messages.flatMap((message) => message.reward ?? []));
  t.true(rewardScale > 0 && rewardScale <= Math.max(...rewards.map(Math.abs)) * 1.0001);
});

test("many different outcomes are offered as thirds, failed conversations apart", (t) => {
  const outcomes = [null, ...Array.from({ length: 30 }, (_, i) => i / 30)];
  const [base] = exampleRun(4).transcripts;
  const transcripts = outcomes.map((outcome, step) => ({ ...base, step, outcome }));
  const { transcripts: read, bands } = dataOf(renderReport({ ...small, transcripts })).transcripts;
  t.is(bands.length, 4);
  t.is(bands[3], "no outcome");
  const counts = bands.map((band) => read.filter((each) => each.band === band).length);
  t.is(counts[3], 1);
  for (const count of counts.slice(0, 3)) t.true(count >= 9 && count <= 11, `${counts}`);
});

test("the largest turn reward is named and compared with the truly useful turn", (t) => {
  const turn = (reward?: number, useful?: boolean) => ({
    role: "assistant",
    content: "x",
    reward,
    useful,
    stop: "stop",
  });
  const user = { role: "user", content: "y" };
  const read = (...messages: { role: string; content: string }[]) => {
    const transcript = { step: 1, task: 0, sample: 0, outcome: 1, metrics: {}, stop: "user_done", messages };
    return dataOf(renderReport({ ...small, transcripts: [transcript] })).transcripts.transcripts[0];
  };
  const right = read(user, turn(0.1), user, turn(0.7, true));
  t.is(right.verdict, "Largest turn reward: turn 2, the truly useful one.");
  t.deepEqual(
    right.messages.map(({ speaker, largest, stop }) => [speaker, largest ?? false, stop]),
    [
      ["User", false, undefined],
      ["Assistant, turn 1", false, "ended its turn"],
      ["User", false, undefined],
      ["Assistant, turn 2", true, "ended its turn"],
    ],
  );
  t.is(read(turn(-0.1), turn(-0.7, true)).verdict, "Largest turn reward: turn 1; the truly useful one is turn 2.");
  t.is(read(turn(0.3), turn(Number.NaN)).verdict, "Largest turn reward: turn 1.");
  t.is(read(turn(), turn()).verdict, "");
});

test("large task ids and steps are kept whole while fractions are shortened", (t) => {
  const [base] = exampleRun(4).transcripts;
  const messages = [{ role: "assistant", content: "x", reward: 0.123456789 }];
  const transcript = { ...base, step: 1234567, task: 7654321, messages };
  const [read] = dataOf(renderReport({ ...small, transcripts: [transcript] })).transcripts.transcripts;
  t.like(read, { name: "step 1234567", task: 7654321 });
  t.is(read.messages[0].reward, 0.12346);
});

test("size is bounded: conversations in number and text, points of a curve", (t) => {
  const run = exampleRun(3000);
  t.true(run.transcripts.length > 2000);
  const page = renderReport(run);
  t.true(dataOf(page).transcripts.transcripts.length <= 200);
  t.true(page.length < 1_500_000, `${page.length} characters`);
  const long = run.transcripts.map((each) => ({
    ...each,
    messages: [{ role: "assistant", content: "y".repeat(50_000) }],
  }));
  const bounded = renderReport({ ...run, transcripts: long }, { count: 200, characters: 300_000 });
  const { transcripts } = dataOf(bounded).transcripts;
  t.true(bounded.length < page.length + 300_000 && transcripts.length >= 10, `${transcripts.length} conversations`);
  t.is(stepOf(transcripts[0]), 0);
  t.is(stepOf(transcripts.at(-1)!), 3000);
  t.true(transcripts[0].messages[0].content.endsWith("… 30000 more characters"));
});

test("a run that has only just begun has a page", (t) => {
  const text = textOf(renderReport({ title: "new", config: {}, metrics: [], transcripts: [], steps: 10 }));
  t.true(text.includes("No step finished yet."));
  t.true(text.includes("None recorded yet."));
  t.notRegex(text, /NaN|undefined|Infinity/);
});

test("writing again and again, even at once, leaves one whole page and nothing else", async (t) => {
  const directory = join(mkdtempSync(join(tmpdir(), "itpo-report-")), "runs", "a");
  const reports = Array.from({ length: 8 }, (_, i) => ({ ...small, title: `run ${i}` }));
  await Promise.all(reports.map((report) => writeReport(directory, report)));
  t.deepEqual(readdirSync(directory), [REPORT_FILE]);
  t.regex(readFileSync(join(directory, REPORT_FILE), "utf8"), /^<!DOCTYPE html>.*<\/html>\n$/s);
});
