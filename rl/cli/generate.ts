import { InputError, openDevice } from "../../lib/index.js";
import { chatRenderer, generate, loadQwen, loadTokenizer } from "../../models/index.js";
import { dtypeOption } from "./dtype.js";

const DEFAULT_TOKENS = 256;

export async function generateCommand(options: {
  readonly model: string;
  readonly prompt?: string;
  readonly message?: string;
  readonly system?: string;
  readonly maxTokens?: string;
  readonly temperature: string;
  readonly seed: string;
  readonly device: string;
  readonly dtype: string;
}): Promise<void> {
  const { prompt, message, system } = options;
  if ((prompt === undefined) === (message === undefined)) throw new InputError("give one of --prompt and --message");
  const given = options.maxTokens === undefined ? undefined : number("--max-tokens", options.maxTokens, 1);
  const temperature = number("--temperature", options.temperature, 0);
  const seed = number("--seed", options.seed, 0);
  const tokenizer = await loadTokenizer(options.model);
  const backend = await openDevice(options.device);
  const model = await loadQwen(options.model, { backend, dtype: dtypeOption(options.dtype, backend) });
  const chat = message === undefined ? undefined : chatRenderer(tokenizer);
  const tokens = chat
    ? chat.open([
        ...(system === undefined ? [] : [{ role: "system" as const, content: system }]),
        { role: "user" as const, content: message! },
      ])
    : tokenizer.encode(prompt!);
  const { maxPositions } = model.config;
  const maxTokens = given ?? Math.max(1, Math.min(DEFAULT_TOKENS, maxPositions - tokens.length));
  if (tokens.length === 0) throw new InputError("the prompt is empty; give some text");
  if (tokens.length + maxTokens > maxPositions) {
    throw new InputError(
      `${tokens.length} tokens of prompt and ${maxTokens} more exceed the model's ${maxPositions}; lower --max-tokens`,
    );
  }
  const stopIds = [...(chat?.stopIds ?? []), ...model.config.eosTokenIds];
  const [{ ids }] = await generate(model, [tokens], { maxTokens, temperature, seed, stopIds });
  process.stdout.write(`${tokenizer.decode(ids)}\n`);
  backend.close();
}

function number(name: string, text: string, lowest: number): number {
  const value = Number(text);
  const isCount = name !== "--temperature";
  if (text.trim() === "" || !Number.isFinite(value) || value < lowest || (isCount && !Number.isInteger(value))) {
    throw new InputError(`${name} is '${text}'; give a ${isCount ? "whole " : ""}number of at least ${lowest}`);
  }
  return value;
}
