import { randomInt } from "node:crypto";
import { createInterface, type Interface } from "node:readline";
import { InputError } from "../../lib/index.js";
import { Conversation, type ConversationOptions } from "../serve/conversation.js";
import { Engine } from "../serve/engine.js";
import { type ModelOptions, openModel, type SamplingOptions, samplingOptions } from "./model.js";
import { numberOption, optionalNumber } from "./number.js";

/** Memory for keys and values is taken at the start, for the whole context. */
const DEFAULT_CONTEXT = 8192;

/** A conversation, message by message, at the terminal or from what is piped in: a line is a message. */
export async function chatCommand(
  options: ModelOptions &
    SamplingOptions & {
      readonly system?: string;
      readonly maxTokens: string;
      readonly context?: string;
      readonly seed?: string;
    },
): Promise<void> {
  const settings: ConversationOptions = {
    system: options.system,
    sampling: samplingOptions(options),
    maxTokens: numberOption("--max-tokens", options.maxTokens, { least: 1 }),
    seed: optionalNumber("--seed", options.seed, { least: 0 }) ?? randomInt(2 ** 47),
  };
  const given = optionalNumber("--context", options.context, { least: 2 });
  const { backend, model, tokenizer } = await openModel(options);
  const context = given ?? Math.min(DEFAULT_CONTEXT, model.config.maxPositions);
  const engine = new Engine({ model, tokenizer, context, maxBatch: 1 });
  await converse(engine, settings);
  engine.dispose();
  backend.close();
}

/** Characters that would let an answer command the terminal: all control characters but tab and line feed. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the ones to remove
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;

async function converse(engine: Engine, settings: ConversationOptions): Promise<void> {
  const { stdin, stdout } = process;
  const isTerminal = Boolean(stdin.isTTY && stdout.isTTY);
  const lines = createInterface({ input: stdin, output: isTerminal ? stdout : undefined, terminal: isTerminal });
  const interrupts = interruptible(lines);
  // A reader that closes the pipe wants no more.
  stdout.on("error", interrupts.end);
  const write = (text: string) => stdout.write(isTerminal ? text.replace(CONTROLS, "") : text);
  lines.on("close", () => isTerminal && stdout.write("\n"));
  if (isTerminal) stdout.write("Ctrl-C ends an answer; /clear begins anew, /exit ends\n");
  let conversation = new Conversation(engine, settings);
  lines.prompt();
  for await (const line of lines) {
    const message = line.trim();
    if (message === "/exit" || interrupts.ended) break;
    if (message === "/clear") {
      conversation.close();
      conversation = new Conversation(engine, settings);
    } else if (message !== "") {
      await answer(conversation, message, write, interrupts);
    }
    if (isTerminal) lines.prompt();
  }
  lines.close();
  conversation.close();
}

async function answer(
  conversation: Conversation,
  message: string,
  write: (text: string) => void,
  interrupts: Interrupts,
): Promise<void> {
  try {
    const { stop } = await interrupts.during((signal) => conversation.say(message, write, signal));
    write("\n");
    if (stop === "length") process.stderr.write("(cut off: raise --max-tokens, or /clear where the context is full)\n");
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    process.stderr.write(`itpo: ${error.message}; shorten the message, or /clear\n`);
  }
}

/** What Ctrl-C does. */
interface Interrupts {
  /** Whether the program is to end. */
  readonly ended: boolean;
  /** Ends the input, and the answer under way. */
  end(): void;
  /** Runs something that Ctrl-C ends. */
  during<T>(run: (signal: AbortSignal) => Promise<T>): Promise<T>;
}

/** Ctrl-C ends what runs; where nothing runs, or a second time, it ends the program. */
function interruptible(lines: Interface): Interrupts {
  let running: AbortController | undefined;
  let ended = false;
  const end = () => {
    ended = true;
    running?.abort();
    lines.close();
  };
  const interrupt = () => {
    if (!running || running.signal.aborted) end();
    else running.abort();
  };
  lines.on("SIGINT", interrupt);
  process.on("SIGINT", interrupt);
  return {
    get ended() {
      return ended;
    },
    end,
    async during(run) {
      running = new AbortController();
      try {
        return await run(running.signal);
      } finally {
        running = undefined;
      }
    },
  };
}
