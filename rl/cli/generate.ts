import { InputError } from "../../lib/index.js";
import { chatRenderer, generate } from "../../models/index.js";
import { planBatch, runBatch } from "../serve/batch.js";
import { Engine } from "../serve/engine.js";
import { type ModelOptions, openModel } from "./model.js";
import { numberOption, optionalNumber } from "./number.js";

const DEFAULT_TOKENS = 256;

/** What is asked for once, or line by line. */
interface GenerateOptions extends ModelOptions {
  readonly prompt?: string;
  readonly message?: string;
  readonly system?: string;
  readonly input?: string;
  readonly output?: string;
  readonly resume?: boolean;
  readonly maxBatch: string;
  readonly maxTokens?: string;
  readonly temperature: string;
  readonly seed: string;
}

/** The options that both ways share, read. */
interface Settings {
  readonly maxTokens?: number;
  readonly temperature: number;
  readonly seed: number;
}

/** Continues a prompt, answers a message, or does either for every line of a file. */
export async function generateCommand(options: GenerateOptions): Promise<void> {
  const { prompt, message, input, output, resume, system } = options;
  const sources = [prompt, message, input].filter((source) => source !== undefined);
  if (sources.length !== 1) throw new InputError("give one of --prompt, --message and --input");
  if ((input === undefined) !== (output === undefined)) throw new InputError("give --input and --output together");
  if (resume && input === undefined) throw new InputError("--resume is for --input and --output");
  if (system !== undefined && message === undefined) {
    throw new InputError(`--system is for --message; ${input === undefined ? "leave it out" : "give it in the lines"}`);
  }
  const settings: Settings = {
    maxTokens: optionalNumber("--max-tokens", options.maxTokens, { least: 1 }),
    temperature: numberOption("--temperature", options.temperature, { least: 0, whole: false }),
    seed: numberOption("--seed", options.seed, { least: 0 }),
  };
  await (input === undefined ? generateOne : generateBatch)(options, settings);
}

async function generateOne(options: GenerateOptions, settings: Settings): Promise<void> {
  const { prompt, message, system } = options;
  const { maxTokens: given, temperature, seed } = settings;
  const { backend, model, tokenizer } = await openModel(options);
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

async function generateBatch(options: GenerateOptions, settings: Settings): Promise<void> {
  const { input, output, resume = false } = options;
  const maxBatch = numberOption("--max-batch", options.maxBatch, { least: 1, most: 4096 });
  const { maxTokens, temperature, seed } = settings;
  const plan = await planBatch({ input: input!, output: output!, resume, seed });
  const { backend, model, tokenizer } = await openModel(options);
  const engine = new Engine({ model, tokenizer, maxBatch });
  const failed = await runBatch(engine, plan, { sampling: { temperature }, maxTokens });
  engine.dispose();
  backend.close();
  if (failed === 0) return;
  process.stderr.write(`itpo: ${failed} of ${plan.total} lines failed; ${output} says why\n`);
  process.exitCode = 1;
}
