import { InputError } from "../../lib/index.js";
import type { Message } from "../../models/index.js";
import type { Engine } from "../serve/engine.js";
import { noiseSite } from "../serve/sampling.js";
import { CallError } from "./callError.js";
import type { ChatModel } from "./chatModel.js";

/** A model in this process. It holds no reply to a schema. */
export function localModel(engine: Engine, name: string): ChatModel {
  return {
    name,
    async complete({ messages, sampling: { temperature, topP, maxTokens, seed } }, signal) {
      const tokens = promptTokens(engine, messages);
      const room = engine.context - tokens.length;
      if (room < 1) {
        throw new CallError("refused", `${tokens.length} tokens exceed the model's context of ${engine.context}`);
      }
      const completion = await engine.draw({
        tokens,
        maxTokens: Math.min(maxTokens, room),
        sampling: { temperature, topP },
        site: noiseSite(seed),
        signal,
      });
      signal.throwIfAborted();
      return {
        text: engine.chat.content(completion.ids),
        finish: completion.stop === "stop" ? "stop" : "length",
        promptTokens: tokens.length,
        completionTokens: completion.ids.length,
      };
    },
  };
}

function promptTokens(engine: Engine, messages: readonly Message[]): number[] {
  try {
    return engine.prompt(messages);
  } catch (error) {
    throw error instanceof InputError ? new CallError("refused", error.message) : error;
  }
}
