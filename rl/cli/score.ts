import { readFile } from "node:fs/promises";
import { z } from "zod";
import { InputError, openDevice, writeWhole } from "../../lib/index.js";
import { loadQwen, score } from "../../models/index.js";
import { dtypeOption } from "./dtype.js";

const inputSchema = z.object({ sequences: z.array(z.array(z.number())) });

export async function scoreCommand(options: {
  readonly model: string;
  readonly input: string;
  readonly output: string;
  readonly device: string;
  readonly dtype: string;
}): Promise<void> {
  const { sequences } = await readInput(options.input);
  const backend = await openDevice(options.device);
  const model = await loadQwen(options.model, { backend, dtype: dtypeOption(options.dtype, backend) });
  const { logprobs, entropy } = await score(model, sequences).catch((error) => {
    throw error instanceof InputError ? new InputError(`${options.input}: ${error.message}`) : error;
  });
  for (const [i, array] of [...logprobs, ...entropy].entries()) {
    if (array.every(Number.isFinite)) continue;
    throw new InputError(
      `sequence ${i % sequences.length}: the model gives no finite numbers; its weights are damaged`,
    );
  }
  const lists = (arrays: readonly Float32Array[]) => arrays.map((array) => [...array]);
  await writeWhole(options.output, JSON.stringify({ logprobs: lists(logprobs), entropy: lists(entropy) }));
  backend.close();
}

async function readInput(path: string): Promise<z.infer<typeof inputSchema>> {
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    throw new InputError(`${path}: cannot be read as JSON (${(error as Error).message})`);
  }
  const parsed = inputSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new InputError(`${path}: it needs {"sequences": [[ids…], …]} with lists of numbers`);
}
