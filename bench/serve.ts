/**
 * What a server leaves behind: requests of every kind (whole, streamed, four answers, with log-probabilities and the most
 * likely tokens, cut off by a stop string, abandoned mid-stream, refused, malformed, too large, half a request, a stream
 * that nobody reads) to a tiny model, 64 at a time, through the official client and bare sockets in the same process.
 * Prints memory after forced collections, which must not grow, and how late the event loop was meanwhile.
 *
 *     node --expose-gc dist/bench/serve.js [REQUESTS]
 */
import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";
import { createCpu } from "../lib/index.js";
import { chatRenderer, initializeParameters, Qwen, trainBpe } from "../models/index.js";
import { watchLoopDelay } from "../rl/loopDelay.js";
import { Engine } from "../rl/serve/engine.js";
import { startServer } from "../rl/serve/server.js";

const AT_ONCE = 64;
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

/** Sends a whole or half a request on a connection of its own, reads nothing, and leaves after a moment. */
async function leave(body: string, length = Buffer.byteLength(body)): Promise<void> {
  const socket = connect(Number(new URL(server.url).port), "127.0.0.1").pause();
  socket.on("error", () => {});
  await once(socket, "connect");
  const head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
  socket.write(`${head}content-length: ${length}\r\n\r\n${body}`);
  await sleep(50);
  socket.resetAndDestroy();
}

async function post(body: string): Promise<void> {
  const headers = { "content-type": "application/json" };
  const response = await fetch(`${server.url}/v1/chat/completions`, { method: "POST", headers, body });
  if (response.status < 400 || response.status >= 500) throw new Error(`a bad request was answered ${response.status}`);
  await response.text();
}

const kinds: readonly ((number: number) => Promise<unknown>)[] = [
  (number) => client.chat.completions.create(ask(number)),
  (number) => streamed(number),
  (number) => streamed(number, { n: 4, logprobs: true, top_logprobs: 5 }),
  (number) => client.chat.completions.create({ ...ask(number), n: 4, stop: ["a", "bc"] }),
  (number) => abandoned(number),
  (number) => client.chat.completions.create({ ...ask(number), n: 1000 }).catch(() => {}),
  () => post('{"model": "tiny", "messages": [{'),
  (number) => post(JSON.stringify({ ...ask(number), user: "x".repeat(2 ** 21) })),
  () => leave('{"model": ', 1000),
  (number) => leave(JSON.stringify({ ...ask(number), max_tokens: 400, n: 4, stream: true, logprobs: true })),
];

async function measure(done: number): Promise<void> {
  while (!engine.idle) await new Promise((resolve) => setTimeout(resolve, 10));
  collect!();
  const { heapUsed, rss, arrayBuffers } = process.memoryUsage();
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  const tensors = backend.memory();
  const { p99, max } = loop.take();
  console.log(
    `${done} requests: heapUsed ${mib(heapUsed)}, rss ${mib(rss)}, arrayBuffers ${mib(arrayBuffers)}, ` +
      `${tensors.bytes.toLocaleString("en-US")} bytes in ${tensors.buffers} tensors, loop late p99 ${p99.toFixed(1)} max ${max.toFixed(0)} ms`,
  );
}

const loop = watchLoopDelay();
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
loop.stop();
await server.close(0);
engine.dispose();
