import type { ExecutionContext } from "ava";
import OpenAI from "openai";
import { createCpu } from "../../../lib/index.js";
import { chatRenderer, type Qwen, saveQwen, type Tokenizer, trainBpe } from "../../../models/index.js";
import { Engine, type EngineOptions } from "../../../rl/serve/engine.js";
import { type RunningServer, type ServerOptions, startServer } from "../../../rl/serve/server.js";
import { tinyConfig, tinyModel } from "../../models/tiny.js";

/** A tiny model with fresh weights that speaks in bytes: much of what it says is no UTF-8. */
export async function babbler({ maxPositions = 256 } = {}): Promise<{ model: Qwen; tokenizer: Tokenizer }> {
  const specialTokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
  const tokenizer = await trainBpe(["größe größe 你好 你好 🙂 🙂"], {
    vocabSize: 280,
    specialTokens,
    config: { eosToken: "<|im_end|>", padToken: "<|endoftext|>" },
  });
  const { vocabSize } = tokenizer;
  const eosTokenIds = chatRenderer(tokenizer).stopIds;
  const config = { ...tinyConfig, layers: 1, vocabSize, eosTokenIds, maxPositions };
  return { model: tinyModel({ config, backend: createCpu() }), tokenizer };
}

/** An engine over a babbler, freed when the test is over. */
export async function babblingEngine(
  t: ExecutionContext,
  { maxPositions, ...options }: Partial<EngineOptions> & { readonly maxPositions?: number } = {},
): Promise<Engine> {
  const engine = new Engine({ ...(await babbler({ maxPositions })), pageSize: 8, ...options });
  t.teardown(() => engine.dispose());
  return engine;
}

/** A folder that the command line takes as `--model`. */
export async function saveBabbler(folder: string, options: { readonly maxPositions?: number } = {}): Promise<void> {
  const { model, tokenizer } = await babbler(options);
  await saveQwen(model, folder);
  await tokenizer.save(folder);
}

/** A server of a babbler, on a port of its own, with the official client for it. */
export interface Served extends RunningServer {
  readonly engine: Engine;
  readonly client: OpenAI;
}

export async function serve(
  t: ExecutionContext,
  {
    engine: engineOptions,
    ...options
  }: Partial<Omit<ServerOptions, "engine">> & {
    readonly engine?: Parameters<typeof babblingEngine>[1];
  } = {},
): Promise<Served> {
  const engine = await babblingEngine(t, engineOptions);
  const server = await startServer({ model: "babbler", port: 0, ...options, engine });
  t.teardown(() => server.close(0));
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: options.apiKey ?? "none", maxRetries: 0 });
  return { ...server, engine, client };
}

/** A request that every test varies. */
export const hello = {
  model: "babbler",
  messages: [{ role: "user" as const, content: "hello" }],
  max_tokens: 24,
  seed: 7,
};

/** Asks without a client, for what a client does not do. */
export function post(url: string, body: unknown, init: RequestInit = {}): Promise<Response> {
  return fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    body: typeof body === "string" ? body : JSON.stringify(body),
    ...init,
    headers: { "content-type": "application/json", ...(init.headers as Record<string, string>) },
  });
}

/** Waits until something is so, and fails where it does not come within `limit` milliseconds. */
export async function until(condition: () => boolean, what: string, limit = 5000): Promise<void> {
  for (const end = Date.now() + limit; !condition(); await new Promise((resolve) => setTimeout(resolve, 5))) {
    if (Date.now() > end) throw new Error(`${what} did not come`);
  }
}
