import { z } from "zod";
import { InputError } from "../lib/errors.js";
import { readRowBatches } from "./rows.js";

/** A message as every dataset writes it. */
export const messageForm = z.object({ role: z.enum(["system", "user", "assistant"]), content: z.string() });

/**
 * The rows of a parquet, JSON or JSONL file, each checked against a form.
 * @param advice what to do about a row that is not of the form, the end of the error's message
 * @param columns for parquet, those to read; default: all
 * @throws InputError where the file cannot be read, or that names the first row and field that will not do.
 */
export async function* checkedRows<T>(
  path: string,
  form: z.ZodType<T>,
  advice: string,
  columns?: readonly string[],
): AsyncGenerator<T> {
  let i = 0;
  for await (const batch of readRowBatches(path, columns)) {
    for (const row of batch) {
      const { success, data, error } = form.safeParse(row);
      if (!success) {
        const [{ path: field, message }] = error.issues;
        throw new InputError(`${path}: row ${i}: ${field.join(".")}: ${message}. ${advice}`);
      }
      i++;
      yield data;
    }
  }
}
