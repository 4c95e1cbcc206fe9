import type { MetricsRow } from "../../../rl/report/metrics.js";
import type { Report } from "../../../rl/report/page.js";
import type { Transcript, TranscriptMessage } from "../../../rl/report/transcript.js";

const SLOTS: Readonly<Record<string, readonly string[]>> = {
  colour: ["red", "green", "blue", "white"],
  size: ["tiny", "small", "large", "huge"],
  city: ["Oslo", "Lima", "Cairo", "Kyoto"],
  meal: ["soup", "rice", "salad", "bread"],
  music: ["jazz", "folk", "opera", "blues"],
  sport: ["judo", "golf", "rugby", "polo"],
};

/** A made-up run of the quickstart game that looks like a real one, for tests and for looking at the page. */
export function exampleRun(steps = 80, seed = 1): Report {
  const random = generator(seed);
  const skillAt = (step: number) => 1 / (1 + Math.exp(-(step - 0.45 * steps) / (0.09 * steps)));
  const metrics: MetricsRow[] = [];
  const transcripts: Transcript[] = [];
  for (let step = 0; step <= steps; step++) {
    metrics.push(exampleRow(step, steps, skillAt(step), random));
    if (step % 4 === 0) {
      for (let sample = 0; sample < 3; sample++) transcripts.push(conversation(step, sample, skillAt(step), random));
    }
    if (step % Math.ceil(steps / 4) === 0) {
      for (let sample = 0; sample < 4; sample++) {
        transcripts.push({ ...conversation(step, sample, skillAt(step), random), label: "held-out" });
      }
    }
  }
  return {
    title: "quickstart-2026-11-23",
    steps,
    facts: {
      device: "cpu, 2 cores",
      engine: "OpenBLAS 0.3.21",
      model: "Qwen2, 98.7k parameters, from scratch",
      seed: 7,
    },
    ceilings: [
      { label: "answer at once", value: 0.25 },
      { label: "best fixed script", value: 0.375 },
      { label: "oracle", value: 1 },
    ],
    config: {
      recipe: "quickstart",
      seed: 7,
      device: "cpu",
      environment: { name: "slots", slots: 6, values: 4, questions: 2, held_out: 512 },
      model: { layers: 2, width: 64, heads: 4, vocabulary: 65, rope_theta: 1000, tied: true },
      rollout: { prompts: 16, samples: 8, temperature: 1, max_turns: 3, turn_tokens: 12 },
      prm: { beta: 0.5, lr: 0.002, batch: 16, clip: 10, warm_up_steps: 10 },
      credit: { method: "norm_itpo", tau: 0.2, baseline: "turn_index" },
      policy: { lr: 0.0007, betas: [0.9, 0.95], minibatches: 2, clip: 0.2, dual_clip: 3, kl: 0.03, grad_clip: 1 },
    },
    metrics,
    transcripts,
  };
}

function exampleRow(step: number, steps: number, skill: number, random: () => number): MetricsRow {
  const noise = (size: number) => size * (random() + random() + random() - 1.5);
  const row: Record<string, number> = {
    "outcome/mean": clamp(0.31 + 0.65 * skill + noise(0.08)),
    "outcome/copied_value": clamp(0.94 + 0.05 * skill + noise(0.03)),
    "credit/norm_itpo": clamp(0.34 + 0.44 * Math.min(1, step / 18) + noise(0.04)),
    "credit/prime_tokens": clamp(0.34 + 0.3 * Math.min(1, step / 30) + noise(0.05)),
    "credit/chance": 0.333,
    "turn_reward/1": 0.3 * skill + noise(0.04) + 0.1,
    "turn_reward/2": 0.12 - 0.05 * skill + noise(0.04),
    "turn_reward/3": 0.05 + 0.12 * skill + noise(0.04),
    "prm/loss": 0.69 - 0.25 * Math.min(1, step / 25) - 0.25 * skill + noise(0.05),
    "prm/accuracy": clamp(0.6 + 0.3 * Math.min(1, step / 25) + 0.08 * skill + noise(0.04)),
    "policy/kl": Math.max(0, 0.9 * skill + noise(0.06)),
    "policy/entropy": Math.max(0.02, 0.72 - 0.55 * skill + noise(0.05)),
    "policy/clip_fraction": Math.max(0, 0.06 * (1 - skill) + noise(0.02)),
    "policy/grad_norm": Math.exp(noise(0.5)),
    "rollout/tokens_per_s": 4100 + 300 * skill + noise(500),
    "rollout/failed": 0,
    "time/rollout": 0.08 + noise(0.01),
    "time/prm": 0.12 + noise(0.01),
    "time/policy": 0.1 + noise(0.01),
  };
  if (step % Math.ceil(steps / 8) === 0) row["held_out/outcome"] = clamp(0.31 + 0.66 * skill + noise(0.02));
  return { ...row, step, time: 7 + step * 0.31 };
}

function conversation(step: number, sample: number, skill: number, random: () => number): Transcript {
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)];
  const slots = Object.keys(SLOTS);
  const goal = pick(slots);
  const hidden = pick(SLOTS[goal]);
  const first = random() < skill ? goal : pick(slots);
  const second = pick(slots.filter((slot) => slot !== first));
  const found = first === goal || second === goal;
  const other = () => pick(Object.values(SLOTS).flat());
  const answer = found || random() < 0.1 ? hidden : other();
  const outcome = answer === hidden ? 1 : 0;
  const question = (slot: string): TranscriptMessage[] => [
    assistant(`which ${slot} ?`, slot === goal, outcome, skill, random),
    { role: "user", content: slot === goal ? `must ${hidden}` : `maybe ${pick(SLOTS[slot])}` },
  ];
  return {
    step,
    task: Math.floor(random() * 150),
    sample,
    outcome,
    metrics: { correct: outcome, questions: 2, length: 27 },
    stop: "user_done",
    messages: [
      { role: "user", content: `help with my ${goal} please` },
      ...question(first),
      ...question(second),
      assistant(`so pick ${answer}`, false, outcome, skill, random),
    ],
  };
}

function assistant(
  content: string,
  useful: boolean,
  outcome: number,
  skill: number,
  random: () => number,
): TranscriptMessage {
  const reward = (useful ? 0.5 : 0) * (0.3 + skill) + 0.25 * (outcome - 0.6) + 0.2 * (random() - 0.5);
  const texts = content.split(/(?= )/);
  return {
    role: "assistant",
    content,
    reward,
    advantage: 2.2 * reward - 0.3,
    weight: Math.min(1, Math.max(0, 0.33 + reward / 2)),
    ...(useful ? { useful } : {}),
    stop: "stop",
    tokens: [...texts, "<|im_end|>"].map((text) => ({ text, score: (reward / 4) * (0.2 + 1.6 * random()) - 0.02 })),
  };
}

function clamp(value: number): number {
  return Math.min(1, Math.max(0, value));
}

/** A small linear congruential generator: equal seeds, equal runs. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
