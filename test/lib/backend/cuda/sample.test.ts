/*
 * Tokens drawn by kernels/sample.cu are those that the host draws from the same logits (test/models/slotKernels.ts). The device's
 * filters take logits within 2^-16 temperatures for equal, so a token at the very edge of a filter may be kept on one side alone:
 * with these seeds none of these is drawn.
 */
import type { ExecutionContext } from "ava";
import { type Backend, readDrawn, sampleLogits, seedKey, tensor } from "../../../../lib/index.js";
import { createCpuWithSlots } from "../../../models/slotKernels.js";
import { normals } from "../../support.js";
import { cudaTest, openCuda } from "./support.js";

interface Request {
  readonly temperature?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly topK?: number;
  readonly position?: number;
}

interface Drawn {
  readonly ids: readonly number[];
  readonly logprobs: readonly number[];
}

const host = createCpuWithSlots();

/** One token of each row of logits [rows, vocabulary]; row r is asked for by request r, and again from the first on. */
async function draw(
  backend: Backend,
  logits: Float32Array,
  rows: number,
  requests: readonly Request[],
): Promise<Drawn> {
  const asked = Array.from({ length: rows }, (_, row) => requests[row % requests.length]);
  const column = (dtype: "f32" | "i32", of: (request: Request, row: number) => number) =>
    tensor(asked.map(of), { backend, dtype });
  const site = asked.flatMap((_, row) => [3, row, 65536 * (row % 5) + 2]);
  const drawn = sampleLogits(tensor(logits, { backend, dtype: "f32", shape: [rows, logits.length / rows] }), {
    temperature: column("f32", ({ temperature = 1 }) => temperature),
    topP: column("f32", ({ topP = 1 }) => topP),
    minP: column("f32", ({ minP = 0 }) => minP),
    topK: column("i32", ({ topK = 0 }) => topK),
    site: tensor(site, { backend, dtype: "i32", shape: [rows, 3] }),
    positions: column("i32", ({ position }, row) => position ?? 1 + (row % 700)),
    key: seedKey(41),
  });
  const { ids, logprobs } = await readDrawn(drawn);
  return { ids: [...ids], logprobs: [...logprobs] };
}

async function sameAsHost(t: ExecutionContext, logits: Float32Array, rows: number, requests: readonly Request[]) {
  const [actual, expected] = [
    await draw(await openCuda(), logits, rows, requests),
    await draw(host, logits, rows, requests),
  ];
  t.deepEqual(actual.ids, expected.ids);
  const gap = Math.max(...actual.logprobs.map((value, row) => Math.abs(value - expected.logprobs[row])));
  t.true(gap < 1e-3, `log-probabilities are ${gap} apart`);
  return actual;
}

const requests: readonly Request[] = [
  {},
  { topP: 0.9 },
  { temperature: 0 },
  { temperature: 0.7, topP: 0.95, topK: 40 },
  { temperature: 2, minP: 0.05 },
  { topK: 3 },
  { temperature: 0.3, topP: 0.5, minP: 0.01, topK: 1000 },
  { temperature: 0.05 },
  { topP: 0.9999 },
  { position: 0 },
];

const spread = (seed: number, size: number, scale: number) => Float32Array.from(normals(seed, size, scale));

for (const [rows, vocabulary] of [
  [1, 1],
  [2, 3],
  [300, 1003],
  [20, 8196],
  [33, 4098],
  [1, 151_936],
  [10, 20_001],
  // More chunks than are merged at once.
  [2, 300_001],
] as const) {
  for (const [what, scale] of [
    ["flat", 0.3],
    ["usual", 3],
    ["peaked", 30],
  ] as const) {
    cudaTest(`${rows} ${what} rows of ${vocabulary} logits: the host's tokens, whatever is asked`, async (t) => {
      const logits = spread(rows + vocabulary, rows * vocabulary, scale);
      // A single row is asked for in every way.
      for (const asked of rows === 1 ? requests.map((request) => [request]) : [requests]) {
        await sameAsHost(t, logits, rows, asked);
      }
    });
  }
}

cudaTest(
  "draws follow each other: what a row gets does not depend on the draws before, nor on the rows beside it",
  async (t) => {
    const [rows, vocabulary] = [96, 30_011];
    const logits = spread(11, rows * vocabulary, 1);
    const cuda = await openCuda();
    const whole = await draw(cuda, logits, rows, requests);
    for (const count of [96, 1, 40, 3, 96, 8, 96, 1]) {
      const some = await draw(cuda, logits.subarray(0, count * vocabulary), count, requests);
      t.deepEqual(some, { ids: whole.ids.slice(0, count), logprobs: whole.logprobs.slice(0, count) }, `${count} rows`);
    }
  },
);

cudaTest("logits that are all equal: every token can be drawn, and the log-probability is that of each", async (t) => {
  const [rows, vocabulary] = [64, 5003];
  const { ids } = await sameAsHost(t, new Float32Array(rows * vocabulary).fill(2.5), rows, [
    {},
    { topP: 0.9 },
    { topK: 5 },
    { temperature: 0 },
  ]);
  t.true(new Set(ids).size > 40);
  t.is(ids[3], 0, "of equals the first is the most likely");
});

cudaTest("logits of minus infinity are never drawn, and where a filter keeps one token it is drawn", async (t) => {
  const [rows, vocabulary] = [40, 9001];
  const logits = spread(7, rows * vocabulary, 2).map((x, i) => (i % 3 === 0 ? x : Number.NEGATIVE_INFINITY));
  const { ids } = await sameAsHost(t, logits, rows, requests.slice(0, 9));
  t.true(ids.every((id, row) => (row * vocabulary + id) % 3 === 0));
  const most = await draw(await openCuda(), logits, rows, [{ temperature: 0 }]);
  for (const single of [{ topK: 1 }, { topP: 1e-9 }, { minP: 1 }, { temperature: 9, topK: 1 }]) {
    t.deepEqual((await draw(await openCuda(), logits, rows, [single])).ids, most.ids, JSON.stringify(single));
  }
});

cudaTest("no token comes of rows that are empty or hold no number; the rows beside them do not change", async (t) => {
  const [rows, vocabulary] = [12, 5000];
  const logits = spread(8, rows * vocabulary, 1);
  const whole = await sameAsHost(t, logits, rows, requests.slice(0, 9));
  const none = { 2: Number.NaN, 5: Number.NEGATIVE_INFINITY, 9: Number.NaN };
  for (const [row, value] of Object.entries(none)) {
    logits.fill(value, Number(row) * vocabulary, (Number(row) + 1) * vocabulary);
  }
  const { ids, logprobs } = await draw(await openCuda(), logits, rows, requests.slice(0, 9));
  whole.ids.forEach((id, row) => {
    t.is(ids[row], row in none ? -1 : id, `row ${row}`);
    t.is(logprobs[row], row in none ? 0 : whole.logprobs[row], `row ${row}`);
  });
});
