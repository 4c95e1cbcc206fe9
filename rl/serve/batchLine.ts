import { z } from "zod";
import { InputError } from "../../lib/index.js";
import { drawChoices } from "./choices.js";
import type { Engine } from "./engine.js";
import { limits } from "./limits.js";
import type { Sampling } from "./sampling.js";

/** What holds for lines that do not say. */
export interface LineDefaults {
  readonly sampling: Sampling;
  /** Most tokens of an answer; without it 256, or what there is room for. */
  readonly maxTokens?: number;
}

/** What one line of input gave. */
export type LineRecord = {
  /** The line's number in the input, from 1. */
  readonly line: number;
  readonly id?: string | number;
} & ({ readonly error: string } | LineAnswers);

interface LineAnswers {
  /** With this seed in the line it gives the same answers alone. */
  readonly seed: number;
  readonly choices: readonly { readonly text: string; readonly finish_reason: "stop" | "length" }[];
  /** Tokens. */
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number };
}

const DEFAULT_TOKENS = 256;

const id = z.union([z.string(), z.number()], { error: "must be text or a number" }).optional();
const options = {
  id,
  max_tokens: z.int().min(1).optional(),
  temperature: z.number().min(0).optional(),
  seed: z.int().min(0).optional(),
  n: z.int().min(1).max(limits.choices).optional(),
};
const message = z.strictObject({ role: z.enum(["system", "user", "assistant"]), content: z.string() });
const promptForm = z.strictObject({ ...options, prompt: z.string().min(1) });
const messagesForm = z.strictObject({ ...options, messages: z.array(message).min(1) });

/** Answers one line of a batch; what is wrong with it is in the record. `seed` is used where the line has none. */
export async function answerLine(
  engine: Engine,
  text: string,
  { line, seed, ...defaults }: LineDefaults & { readonly line: number; readonly seed: number },
): Promise<LineRecord> {
  let given: { id?: string | number } = {};
  try {
    const json = parseJson(text);
    given = z.object({ id }).catch({}).parse(json);
    return { line, ...given, ...(await answer(engine, readLine(json), { seed, ...defaults })) };
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return { line, ...given, error: `line ${line}: ${error.message}` };
  }
}

type Line = z.infer<typeof promptForm> | z.infer<typeof messagesForm>;

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new InputError(`not JSON (${(error as Error).message})`);
  }
}

function readLine(json: unknown): Line {
  const has = (key: string) => typeof json === "object" && json !== null && key in json;
  if (has("prompt") === has("messages")) throw new InputError('needs one of "prompt" and "messages"');
  const parsed = (has("prompt") ? promptForm : messagesForm).safeParse(json);
  if (parsed.success) return parsed.data;
  const [{ path, message }] = parsed.error.issues;
  throw new InputError([path.join("."), message].filter(Boolean).join(": "));
}

async function answer(
  engine: Engine,
  line: Line,
  { sampling, maxTokens, seed: otherwise }: LineDefaults & { readonly seed: number },
): Promise<LineAnswers> {
  const tokens = "prompt" in line ? engine.tokenizer.encode(line.prompt) : engine.prompt(line.messages);
  const { n = 1, seed = otherwise, temperature = sampling.temperature } = line;
  const asked = line.max_tokens ?? maxTokens;
  const room = engine.context - tokens.length;
  if (tokens.length === 0) throw new InputError("the prompt has no tokens");
  if ((asked ?? 1) > room) {
    const more = asked === undefined ? "" : ` and ${asked} more`;
    throw new InputError(`${tokens.length} tokens of prompt${more} exceed the model's ${engine.context}`);
  }
  const texts = new Array<string>(n).fill("");
  const request = {
    ...{ tokens, maxTokens: asked ?? Math.min(DEFAULT_TOKENS, room), sampling: { ...sampling, temperature } },
    ...{ stops: [], logprobs: false, count: n, seed },
  };
  const ends = await drawChoices(engine, request, {
    delta(choice, { content }) {
      texts[choice] += content;
    },
    finish() {},
  });
  return {
    seed,
    choices: ends.map(({ finish }, choice) => ({ text: texts[choice], finish_reason: finish })),
    usage: { prompt_tokens: tokens.length, completion_tokens: ends.reduce((sum, end) => sum + end.tokens, 0) },
  };
}
