/*
 * Whether the log-probs that decoding writes from the KV cache are those of the first update, to the bit: conversations of two
 * turns, four of a group from one opening, drawn all at once; then every drawn token again by the trainer's forward pass with
 * its gradient. Half of the conversations at temperature 0.7. Prints a row for each shape, context and batch.
 *
 *     npm run bench -- exact [--device cuda|cpu] [--model small|tiny|0.5b|…] [--tokens 100000] [--contexts 1,500,2000,8000]
 *         [--batches 1,8,64,256] [--draws-on device|host] [--no-grad]
 *
 * `--tokens` is about what is drawn in all. On cpu the models are small enough for exact products, and the defaults less.
 * `--draws-on` is by default the device where it can. `--no-grad` scores without gradient. Ends with 1 where a bit differs.
 */
import { parseArgs } from "node:util";
import { type Backend, type DType, openDevice } from "../lib/index.js";
import { type DrawsOn, initializeParameters, KvCache, Qwen, type QwenConfig, Sampler } from "../models/index.js";
import { forwardRows, Learner } from "../rl/learner.js";
import type { Loss, Outputs } from "../rl/objective/index.js";
import { models, randomParameters, tokenIds } from "./gpu.js";

const GROUP = 4;
const REPLY = 5;
const TEMPERATURES = [1, 0.7];

const basis = { ...models.tiny, layers: 2, vocabSize: 1000, initializerRange: 0.08 };
/** Heads to key heads 1:1, 2:1, 7:1 and 8:1. */
const sets: Readonly<Record<string, readonly QwenConfig[]>> = {
  small: [
    { ...basis, hiddenSize: 256, intermediateSize: 512, heads: 4, kvHeads: 4, headDim: 64 },
    { ...basis, hiddenSize: 512, intermediateSize: 1024, heads: 4, kvHeads: 2, headDim: 128 },
    { ...basis, hiddenSize: 448, intermediateSize: 896, heads: 7, kvHeads: 1, headDim: 64 },
    { ...basis, hiddenSize: 512, intermediateSize: 1024, heads: 8, kvHeads: 1, headDim: 128 },
  ],
  tiny: [
    { ...basis, hiddenSize: 128, intermediateSize: 256, heads: 2, kvHeads: 2, headDim: 64 },
    { ...basis, hiddenSize: 128, intermediateSize: 256, heads: 4, kvHeads: 2, headDim: 64 },
    { ...basis, hiddenSize: 112, intermediateSize: 200, heads: 7, kvHeads: 1, headDim: 32 },
    { ...basis, hiddenSize: 128, intermediateSize: 256, heads: 8, kvHeads: 1, headDim: 48 },
  ],
};

const { values: flags } = parseArgs({
  options: {
    device: { type: "string", default: "auto" },
    ...{
      model: { type: "string" },
      tokens: { type: "string" },
      contexts: { type: "string" },
      batches: { type: "string" },
      "draws-on": { type: "string" },
    },
    "no-grad": { type: "boolean", default: false },
  },
});
const backend = await openDevice(flags.device);
const isCuda = backend.name.startsWith("cuda");
const dtype: DType = isCuda ? "bf16" : "f32";
const name = flags.model ?? (isCuda ? "small" : "tiny");
const shapes = sets[name] ?? (models[name] && [models[name]]);
if (!shapes) {
  throw new Error(
    `model '${name}' does not exist; there are ${[...Object.keys(sets), ...Object.keys(models)].join(", ")}`,
  );
}
const list = (text: string) => text.split(",").map(Number);
const contexts = list(flags.contexts ?? (isCuda ? "1,500,2000,8000" : "1,60,500"));
const batches = list(flags.batches ?? (isCuda ? "1,8,64,256" : "1,8,64"));
const budget = Number(flags.tokens ?? (isCuda ? 100_000 : 20_000));
/** What a row draws goes with the root of its batch. */
const perRoot = budget / (shapes.length * contexts.length * batches.reduce((sum, batch) => sum + Math.sqrt(batch), 0));

/** A conversation as it was drawn. */
interface Drawn {
  readonly tokens: number[];
  readonly logprobs: number[];
  readonly turns: { start: number; end: number }[];
  readonly temperature: number;
}

interface Plan {
  readonly context: number;
  readonly batch: number;
  /** Tokens of a turn, about. */
  readonly draw: number;
}

async function draw(model: Qwen, { context, batch, draw }: Plan): Promise<Drawn[]> {
  const { config } = model;
  const pageSize = isCuda ? 64 : 16;
  const pages = (batch + Math.ceil(batch / GROUP)) * Math.ceil((context + 2 * (draw + 2) + REPLY) / pageSize);
  const cache = new KvCache(config, { backend: model.backend, dtype, pages, pageSize });
  const sampler = new Sampler(model, cache, { seed: 1, drawsOn: flags["draws-on"] as DrawsOn | undefined });

  async function converse(
    sequence: ReturnType<KvCache["open"]>,
    opening: readonly number[],
    member: number,
  ): Promise<Drawn> {
    const temperature = TEMPERATURES[(member + context) % 2];
    const [tokens, logprobs, turns]: [number[], number[], Drawn["turns"]] = [[...opening], [], []];
    for (let turn = 0; turn < 2; turn++) {
      if (turn > 0) tokens.push(...tokenIds(REPLY, config.vocabSize, 1000 + member));
      const request = { sequence, tokens, maxTokens: draw + (member % 3), stopIds: new Set<number>(), temperature };
      const completion = await sampler.generate({ ...request, site: { step: 0, task: member, sample: 0, turn } });
      turns.push({ start: tokens.length, end: tokens.length + completion.ids.length });
      tokens.push(...completion.ids);
      logprobs.push(...completion.logprobs);
    }
    cache.close(sequence);
    return { tokens, logprobs, turns, temperature };
  }

  const groups = Array.from({ length: Math.ceil(batch / GROUP) }, async (_, group) => {
    // Groups whose lengths differ, so that pages and chunks end elsewhere.
    const length = Math.max(1, context - ((group * 5) % Math.min(64, context)));
    const opening = [...tokenIds(length, config.vocabSize, group)];
    const shared = cache.open();
    if (length > 1) await sampler.prefill({ sequence: shared, tokens: opening.slice(0, -1) });
    const members = Array.from({ length: Math.min(GROUP, batch - group * GROUP) }, (_, i) =>
      converse(cache.fork(shared), opening, group * GROUP + i),
    );
    cache.close(shared);
    return Promise.all(members);
  });
  const drawn = (await Promise.all(groups)).flat();
  cache.dispose();
  return drawn;
}

/** The trainer's log-probs of rows, as a loss of its update sees them. */
async function seenByUpdate(model: Qwen, rows: readonly Drawn[], temperature: number): Promise<readonly Outputs[]> {
  if (flags["no-grad"]) return forwardRows(model, rows, { temperature });
  const seen: Outputs[] = [];
  const watch: Loss<Drawn> = {
    name: "watch",
    scope: "row",
    needs: { entropy: false, values: false },
    bind: () => (outputs, indices) => {
      indices.forEach((row, i) => {
        seen[row] = outputs[i];
      });
      return {
        value: 0,
        metrics: {},
        gradients: outputs.map(({ logprobs }) => ({ logprobs: new Float64Array(logprobs.length) })),
      };
    },
  };
  const learner = new Learner(model, { temperature });
  await learner.forwardBackward(rows, watch);
  learner.optimizer.zeroGrad();
  learner.optimizer.dispose();
  return seen;
}

interface Count {
  tokens: number;
  /** Log-probs in which a bit differs. */
  differing: number;
  bits: number;
  largest: number;
}

const words = new Uint32Array(new Float32Array(2).buffer);
const floats = new Float32Array(words.buffer);

function differingBits(a: number, b: number): number {
  floats[0] = a;
  floats[1] = b;
  let bits = 0;
  for (let difference = words[0] ^ words[1]; difference !== 0; difference &= difference - 1) bits++;
  return bits;
}

async function compare(model: Qwen, drawn: readonly Drawn[]): Promise<Count> {
  const count: Count = { tokens: 0, differing: 0, bits: 0, largest: 0 };
  for (const temperature of TEMPERATURES) {
    const rows = drawn.filter((row) => row.temperature === temperature);
    const seen = await seenByUpdate(model, rows, temperature);
    rows.forEach(({ turns, logprobs }, i) => {
      const scored = turns.flatMap(({ start, end }) => Array.from(seen[i].logprobs).slice(start, end));
      scored.forEach((value, j) => {
        const bits = differingBits(value, logprobs[j]);
        count.tokens++;
        count.bits += bits;
        if (bits > 0) count.differing++;
        count.largest = Math.max(count.largest, Math.abs(value - logprobs[j]));
      });
    });
  }
  return count;
}

function modelOf(config: QwenConfig, on: Backend): Qwen {
  const parameters = sets[name]
    ? initializeParameters(config, { backend: on, seed: 1, dtype })
    : randomParameters(on, config, dtype);
  return new Qwen(config, parameters);
}

console.log(`${backend.name}: ${backend.description}; ${name} models, ${dtype}`);
console.log("heads  dim  context  batch    tokens   differ     bits   largest      s");
const total = { tokens: 0, differing: 0, bits: 0 };
for (const config of shapes) {
  const model = modelOf(config, backend);
  for (const context of contexts) {
    for (const batch of batches) {
      const started = performance.now();
      const each = Math.max(2, Math.round((perRoot * Math.sqrt(batch)) / batch / 2));
      const { tokens, differing, bits, largest } = await compare(
        model,
        await draw(model, { context, batch, draw: each }),
      );
      const seconds = (performance.now() - started) / 1000;
      total.tokens += tokens;
      total.differing += differing;
      total.bits += bits;
      const columns = [`${config.heads}:${config.kvHeads}`.padStart(5), String(config.headDim).padStart(5)];
      columns.push(String(context).padStart(9), String(batch).padStart(7), String(tokens).padStart(10));
      columns.push(String(differing).padStart(9), String(bits).padStart(9), largest.toExponential(1).padStart(10));
      console.log(`${columns.join("")}${seconds.toFixed(1).padStart(7)}`);
    }
  }
  for (const parameter of model.parameters.values()) parameter.dispose();
}
const [tokens, differing] = [total.tokens, total.differing].map((count) => count.toLocaleString("en-US"));
console.log(`${differing} of ${tokens} log-probs differ, in ${total.bits} bits`);
process.exitCode = total.differing === 0 ? 0 : 1;
backend.close();
