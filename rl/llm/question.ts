import { z } from "zod";
import type { ReplySchema } from "./chatModel.js";
import { extractJson } from "./extractJson.js";

/** What is asked of a model, and how its reply is read. */
export interface Question<T> {
  /** The whole prompt, one user message. */
  readonly prompt: string;
  /** What it is about, in words, for the record. */
  readonly about: string;
  readonly seed: number;
  readonly schema?: ReplySchema;
  /** @throws Error that says what is wrong with the reply, in words that the model can go by. */
  readonly read: (text: string) => T;
}

/** How a reply is read that is a JSON object of this form: to the letter, nothing is taken for what it is not. */
export function jsonReply<T>(name: string, form: z.ZodType<T>): Pick<Question<T>, "schema" | "read"> {
  return {
    schema: { name, schema: z.toJSONSchema(form) as Record<string, unknown> },
    read(text) {
      const parsed = form.safeParse(extractJson(text));
      if (parsed.success) return parsed.data;
      const [{ path, message }] = parsed.error.issues;
      throw new SyntaxError(`${path.join(".") || "the object"}: ${message}`);
    },
  };
}
