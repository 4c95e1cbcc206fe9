import pLimit from "p-limit";
import type { Message } from "../../models/message.js";
import { CallError } from "./callError.js";
import type { ChatModel, ChatReply, ReplySampling } from "./chatModel.js";
import type { Question } from "./question.js";
import { type Replies, replyKey } from "./replies.js";
import { type CallLimits, retrying, type Timed } from "./retry.js";
import { type Price, Usage } from "./usage.js";

export interface SpeakerOptions extends CallLimits {
  /** `user` or `judge`: in errors and records. */
  readonly role: string;
  readonly model: ChatModel;
  readonly sampling: Omit<ReplySampling, "seed">;
  /** Most attempts under way at once. */
  readonly concurrency: number;
  readonly price?: Price;
}

/** A model in a role: asked within bounds of number and time, its replies remembered, its work counted. */
export interface Speaker {
  /** @throws CallError, with the role before its message, where no usable reply came in time. */
  ask<T>(question: Question<T>): Promise<T>;
  /** What the calls since the last time took. */
  takeMetrics(): Record<string, number>;
  /** From now on replies are kept here, and not asked for again. */
  remember(replies: Replies): void;
}

/** A reply that could not be used, and why. */
interface Unusable {
  readonly text: string;
  readonly error: CallError;
}

export function createSpeaker(options: SpeakerOptions): Speaker {
  const { role, model, sampling } = options;
  const limit = pLimit(options.concurrency);
  const usage = new Usage(options.price);
  const underWay = new Map<string, Promise<unknown>>();
  let replies: Replies | undefined;

  /** One attempt, counted whatever comes of it. */
  async function reply(call: Parameters<ChatModel["complete"]>[0], timed: Timed): Promise<[ChatReply, number]> {
    const started = performance.now();
    const seconds = () => (performance.now() - started) / 1000;
    let isMade = false; // A call whose time ran out in the queue makes no attempt.
    try {
      const given = await timed((signal) => {
        isMade = true;
        return model.complete(call, signal);
      });
      return [given, seconds()];
    } catch (error) {
      const failure = error instanceof CallError ? error : new CallError("server", (error as Error).message);
      if (isMade) usage.attempt({ seconds: seconds(), fault: failure.fault });
      throw failure;
    }
  }

  async function fresh<T>(question: Question<T>, key: string): Promise<T> {
    const { seed, schema, prompt, about } = question;
    const started = performance.now();
    let unusable: Unusable | undefined;
    const attempt = async (number: number, timed: Timed): Promise<T> => {
      const call = {
        messages: messagesOf(prompt, unusable),
        sampling: { ...sampling, seed: unusable ? seed + number : seed },
        schema,
      };
      const [given, seconds] = await reply(call, timed);
      const read = readReply(given, question);
      const error = "error" in read ? read.error : undefined;
      usage.attempt({ seconds, reply: given, fault: error?.fault });
      const failure = error && { fault: error.fault, reason: error.message };
      replies?.keep({ key, role, about, text: given.text, seconds: Number(seconds.toFixed(3)), ...failure });
      if ("value" in read) return read.value;
      unusable = read.error.fault === "unusable" ? { text: given.text, error: read.error } : unusable;
      throw read.error;
    };
    let fault: CallError["fault"] | undefined;
    try {
      return await retrying((number, timed) => limit(() => attempt(number, timed)), options);
    } catch (error) {
      fault = error instanceof CallError ? error.fault : "server";
      throw new CallError(fault, `${role}: ${(error as Error).message}`);
    } finally {
      usage.call((performance.now() - started) / 1000, fault);
    }
  }

  return {
    ask<T>(question: Question<T>): Promise<T> {
      const { seed, schema, prompt } = question;
      const key = replyKey(model.name, { messages: messagesOf(prompt), sampling: { ...sampling, seed }, schema });
      const known = replies?.get(key);
      if (known !== undefined) {
        usage.cacheHit();
        return Promise.resolve().then(() => question.read(known));
      }
      const asked = underWay.get(key) ?? fresh(question, key).finally(() => underWay.delete(key));
      underWay.set(key, asked);
      return asked as Promise<T>;
    },
    takeMetrics: () => usage.take(),
    remember(kept) {
      replies = kept;
    },
  };
}

/** Where a reply was unusable, the model is shown it and told why: the same question would often get the same reply. */
function messagesOf(prompt: string, unusable?: Unusable): Message[] {
  const question: Message = { role: "user", content: prompt };
  if (!unusable) return [question];
  const again = `${unusable.error.message}. Reply once more, in exactly the form asked for, with nothing before or after it.`;
  return [question, { role: "assistant", content: unusable.text }, { role: "user", content: again }];
}

function readReply<T>({ text, finish }: ChatReply, question: Question<T>): { value: T } | { error: CallError } {
  if (text.trim() === "") return { error: new CallError("empty", "the reply is empty") };
  try {
    return { value: question.read(text) };
  } catch (error) {
    const reason = finish === "length" ? "it was cut off at its greatest length" : (error as Error).message;
    return { error: new CallError("unusable", `the reply cannot be used: ${reason}`) };
  }
}
