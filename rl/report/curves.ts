import type { Chart, Level, Series } from "./chart.js";
import type { MetricsRow } from "./metrics.js";

/** Charts that belong together. */
export interface ChartGroup {
  readonly title: string;
  readonly charts: readonly Chart[];
}

/** A chart that gathers several metrics. */
interface Rule {
  readonly group: string;
  readonly title: string;
  readonly note?: string;
  readonly wide?: boolean;
  readonly range?: readonly [number, number];
  /** Those of the metrics that are in this chart, in its order, each with the name of its curve. */
  readonly curves: (keys: readonly string[]) => readonly (readonly [key: string, name: string])[];
}

const RULES: readonly Rule[] = [
  {
    group: "Outcome and credit",
    title: "Outcome",
    note: "mean score of a conversation",
    wide: true,
    range: [0, 1],
    curves: named({ "outcome/mean": "training", "held_out/outcome": "held-out" }),
  },
  {
    group: "Outcome and credit",
    title: "Held-out best and worst",
    note: "expected of k samples of a prompt",
    curves: matching(/^held_out\/((?:best|worst)@\d+)$/),
  },
  {
    group: "Outcome and credit",
    title: "Held-out interval",
    note: "95 % over prompts",
    curves: named({ "held_out/outcome_low": "low", "held_out/outcome_high": "high" }),
  },
  {
    group: "Outcome and credit",
    title: "Credit alignment",
    note: "largest turn reward on the truly useful turn",
    range: [0, 1],
    curves: prefixed("credit/", (name) => name),
  },
  {
    group: "Outcome and credit",
    title: "Turn reward",
    note: "mean, by place of the turn",
    curves: prefixed("turn_reward/", (name) => `turn ${name}`),
  },
  {
    group: "Process reward model",
    title: "PRM loss",
    curves: named({ "prm/loss": "training", "prm/held_out_loss": "held-out" }),
  },
  {
    group: "Process reward model",
    title: "PRM accuracy",
    curves: named({ "prm/accuracy": "training", "prm/held_out_accuracy": "held-out" }),
  },
  {
    group: "Critic",
    title: "Critic loss",
    note: "half the squared error of a value",
    curves: named({ "critic/vf_loss": "training" }),
  },
  {
    group: "Critic",
    title: "Explained variance",
    note: "1: the values are the returns",
    range: [0, 1],
    curves: named({ "critic/vf_explained_var": "training" }),
  },
  { group: "Critic", title: "Mean value", curves: named({ "critic/vpred_mean": "training" }) },
  {
    group: "Fine-tuning",
    title: "Loss",
    note: "nats a token",
    curves: named({ "sft/loss": "training", "sft/held_out_loss": "held-out" }),
  },
  { group: "Policy", title: "KL to the reference", note: "nats a token", curves: named({ "policy/kl": "KL" }) },
  { group: "Policy", title: "Entropy", note: "nats a token", curves: named({ "policy/entropy": "entropy" }) },
  { group: "Rollout and time", title: "Tokens a second", curves: named({ "rollout/tokens_per_s": "rollout" }) },
  { group: "Rollout and time", title: "Seconds a step", range: [0, 0], curves: prefixed("time/", (name) => name) },
  {
    group: "Rollout and time",
    title: "Delay of the event loop",
    note: "ms that what is due has to wait",
    range: [0, 0],
    curves: named({ "event_loop/p99_ms": "99 % at most", "event_loop/max_ms": "at most" }),
  },
  {
    group: "Rollout and time",
    title: "How conversations end",
    note: "share of all",
    range: [0, 1],
    curves: matching(/^((?:held_out\/)?stop[/_].+)$/),
  },
  { group: "Users and judges", title: "Calls", curves: ofCalls("calls|attempts|failures|cache_hits") },
  { group: "Users and judges", title: "Faults", note: "attempts", curves: ofCalls("(?:faults|failures)_.+") },
  { group: "Users and judges", title: "Seconds an attempt", curves: ofCalls("latency_.+") },
  {
    group: "Users and judges",
    title: "Seconds a call",
    note: "with waiting and retries",
    curves: ofCalls("call_seconds_.+"),
  },
  { group: "Users and judges", title: "Tokens", curves: ofCalls("prompt_tokens|completion_tokens") },
  { group: "Users and judges", title: "Cost", curves: ofCalls("cost") },
];

/** Groups of the metrics that no rule names, by the part of the key before the slash. */
const GROUPS: Readonly<Record<string, string>> = {
  outcome: "Outcome and credit",
  held_out: "Outcome and credit",
  prm: "Process reward model",
  critic: "Critic",
  policy: "Policy",
  rollout: "Rollout and time",
  sft: "Fine-tuning",
};

function named(names: Readonly<Record<string, string>>): Rule["curves"] {
  return (keys) => Object.entries(names).filter(([key]) => keys.includes(key));
}

function prefixed(prefix: string, name: (rest: string) => string): Rule["curves"] {
  return (keys) => {
    const members = keys.filter((key) => key.startsWith(prefix));
    return members.map((key) => [key, name(key.slice(prefix.length).replaceAll("_", " "))]);
  };
}

/** Those that a pattern finds, named by what it captures. */
function matching(pattern: RegExp): Rule["curves"] {
  return (keys) =>
    keys.flatMap((key) => {
      const name = pattern.exec(key)?.[1];
      return name === undefined ? [] : [[key, name.replace("held_out/", "held-out ").replace(/[/_]/g, " ")] as const];
    });
}

/** What users and judges took, in training and held-out conversations. */
function ofCalls(names: string): Rule["curves"] {
  return matching(new RegExp(`^((?:held_out/)?(?:user|judge)[/_](?:${names}))$`));
}

/** One metric over the steps that have it. */
export function seriesOf(rows: readonly MetricsRow[], key: string, name = key): Series {
  const steps: number[] = [];
  const values: (number | null)[] = [];
  for (const row of rows) {
    const value = row[key];
    if (value === undefined) continue;
    steps.push(row.step);
    values.push(value);
  }
  return { name, steps, values };
}

/** The names of all metrics, in order of appearance. */
function metricNames(rows: readonly MetricsRow[]): string[] {
  const names = new Set<string>();
  for (const row of rows) for (const key in row) names.add(key);
  names.delete("step");
  names.delete("time");
  return [...names];
}

/** All metrics as grouped charts: first those gathered by a rule, then one chart for each other metric. */
export function chartGroups(rows: readonly MetricsRow[], levels: readonly Level[]): ChartGroup[] {
  const keys = metricNames(rows);
  const groups = new Map<string, Chart[]>();
  const add = (group: string, chart: Chart) => groups.set(group, [...(groups.get(group) ?? []), chart]);
  const rest = new Set(keys);
  for (const { group, curves, ...chart } of RULES) {
    const members = curves(keys);
    if (members.length === 0) continue;
    for (const [key] of members) rest.delete(key);
    const series = members.map(([key, name]) => seriesOf(rows, key, name));
    add(group, { ...chart, series, levels: chart.title === "Outcome" ? levels : [] });
  }
  for (const key of rest) {
    const [prefix] = key.split("/");
    const name = key.slice(prefix.length + 1).replaceAll("_", " ") || key;
    const title = prefix === "held_out" ? `held-out ${name}` : name;
    const group = GROUPS[prefix] ?? capitalise(prefix);
    add(group, { title: capitalise(title), series: [seriesOf(rows, key, name)] });
  }
  return [...groups].map(([title, charts]) => ({ title, charts }));
}

function capitalise(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1).replaceAll("_", " ");
}
