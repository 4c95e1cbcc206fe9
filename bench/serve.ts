/**
 * What a server leaves behind: requests of every kind (whole, streamed, four answers, with log-probabilities, cut off by a
 * stop string, abandoned mid-stream, refused) to a tiny model, 16 at a time, through the official client in the same
 * process. Prints memory after forced collections; it must not grow.
 *
 *     node --expose-gc dist/bench/serve.js [REQUESTS]
 */
import OpenAI from "openai";
import { createCpu } from "../lib/index.js";
import { chatRenderer, initializeParameters, Qwen, trainBpe } from "../models/index.js";
import { Engine } from "../rl/serve/engine.js";
import { startServer } from "../rl/serve/server.js";

const AT_ONCE = 16;
const EVERY = 200;
const requests = Number(process.argv[2] ?? 2000);
const collect = globalThis.gc;
if (!collect) throw new Error("give node the flag --expose-gc");

const backend = createCpu();
const tokenizer = await trainBpe(["the quick brown fox"], {
  vocabSize: 280,
  specialTokens: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
  config: { eosToken: "<|im_end|>" },
});
const config = {
  ...{
    architecture: "qwen3" as const,
    hiddenSize: 16,
    intermediateSize: 24,
    layers: 1,
    heads: 2,
    kvHeads: 1,
    headDim: 8,
  },
  ...{ maxPositions: 512, rmsNormEps: 1e-6, ropeTheta: 1000, tieWordEmbeddings: false, qkvBias: false, qkNorm: true },
  ...{ vocabSize: tokenizer.vocabSize, eosTokenIds: chatRenderer(tokenizer).stopIds, initializerRange: 0.3 },
  dtype: "float32" as const,
};
const model = new Qwen(config, initializeParameters(config, { backend, seed: 1 }));
const engine = new Engine({ model, tokenizer });
const server = await startServer({ engine, model: "tiny", port: 0 });
const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });

const basis = { model: "tiny", max_tokens: 24 };
const ask = (number: number) => ({
  ...basis,
  messages: [{ role: "user" as const, content: `message ${number}` }],
});

async function streamed(number: number, more: object = {}): Promise<void> {
  for await (const _ of await client.chat.completions.create({ ...ask(number), ...more, stream: true }));
}

async function abandoned(number: number): Promise<void> {
  const stream = await client.chat.completions.create({ ...ask(number), max_tokens: 400, stream: true });
  for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
}

const kinds: readonly ((number: number) => Promise<unknown>)[] = [
  (number) => client.chat.completions.create(ask(number)),
  (number) => streamed(number),
  (number) => streamed(number, { n: 4, logprobs: true }),
  (number) => client.chat.completions.create({ ...ask(number), n: 4, stop: ["a", "bc"] }),
  (number) => abandoned(number),
  (number) => client.chat.completions.create({ ...ask(number), n: 1000 }).catch(() => {}),
];

async function measure(done: number): Promise<void> {
  while (!engine.idle) await new Promise((resolve) => setTimeout(resolve, 10));
  collect!();
  const { heapUsed, rss, arrayBuffers } = process.memoryUsage();
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  const tensors = backend.memory();
  console.log(
    `${done} requests: heapUsed ${mib(heapUsed)}, rss ${mib(rss)}, arrayBuffers ${mib(arrayBuffers)}, ` +
      `${tensors.bytes.toLocaleString("en-US")} bytes in ${tensors.buffers} tensors`,
  );
}

const started = performance.now();
for (let done = 0; done < requests; ) {
  const end = Math.min(requests, done + EVERY);
  const worker = async () => {
    while (done < end) await kinds[done % kinds.length](done++);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  await measure(done);
}
const seconds = (performance.now() - started) / 1000;
console.log(`${(requests / seconds).toFixed(0)} requests/s, ${(engine.drawn / seconds).toFixed(0)} tokens/s`);
await server.close(0);
engine.dispose();
