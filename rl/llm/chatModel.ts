import type { Message } from "../../models/message.js";

/** How a reply is drawn; part of what the cache goes by. */
export interface ReplySampling {
  /** 0 takes the most likely token. */
  readonly temperature: number;
  readonly topP?: number;
  /** Most tokens of the reply. */
  readonly maxTokens: number;
  /** The same seed, messages and settings give the same reply, on servers that keep to it. */
  readonly seed: number;
}

/** The form that a reply must have, for servers that can hold a model to it. */
export interface ReplySchema {
  readonly name: string;
  /** JSON schema. */
  readonly schema: Record<string, unknown>;
}

export interface ChatCall {
  readonly messages: readonly Message[];
  readonly sampling: ReplySampling;
  readonly schema?: ReplySchema;
}

export interface ChatReply {
  readonly text: string;
  /** `length`: cut off at `maxTokens`. */
  readonly finish: "stop" | "length";
  readonly promptTokens: number;
  readonly completionTokens: number;
}

/** A model that answers, wherever it runs. */
export interface ChatModel {
  /** What replies are remembered under. */
  readonly name: string;
  /** @throws CallError where there is no reply, or the signal's reason where that ends it. */
  complete(call: ChatCall, signal: AbortSignal): Promise<ChatReply>;
}
