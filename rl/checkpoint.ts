import { mkdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import {
  type Backend,
  fromHost,
  InputError,
  keep,
  openSafetensors,
  outsideArenas,
  type Tensor,
  toFloat32,
  writeSafetensors,
} from "../lib/index.js";
import { loadQwen, type Qwen, saveQwen, type Tokenizer, writeWhole } from "../models/index.js";
import type { Learner } from "./learner.js";

const STATE = "state.json";

/** What a run has to remember besides weights. Everything random derives from seed and step. */
export interface RunState {
  /** Training steps done. */
  readonly step: number;
  /** The resolved config, for comparison. */
  readonly config: unknown;
  /** Held-out outcome before training. */
  readonly before?: number;
}

/** The models of a run by role; each is saved as a model folder that other tools load. */
export interface RunModels {
  readonly policy: Learner;
  readonly prm?: Learner;
  readonly reference: Qwen;
}

/**
 * Writes a checkpoint folder: `policy/`, `reference/` and `prm/` in Hugging Face format, the optimizers' state, and
 * state.json. The old checkpoint is replaced only once the new one is complete.
 */
export async function saveCheckpoint(
  directory: string,
  models: RunModels,
  tokenizer: Tokenizer,
  state: RunState,
): Promise<void> {
  const [fresh, old] = [`${directory}.new`, `${directory}.old`];
  await rm(fresh, { recursive: true, force: true });
  await mkdir(fresh, { recursive: true });
  for (const [role, model] of Object.entries({ ...models, policy: models.policy.model, prm: models.prm?.model })) {
    if (!model) continue;
    await saveQwen(model, join(fresh, role));
    await tokenizer.save(join(fresh, role));
  }
  await saveOptimizer(models.policy, join(fresh, "policy.optimizer.safetensors"));
  if (models.prm) await saveOptimizer(models.prm, join(fresh, "prm.optimizer.safetensors"));
  await writeWhole(join(fresh, STATE), JSON.stringify(state, undefined, 2));
  await rm(old, { recursive: true, force: true });
  await rename(directory, old).catch(ignoreMissing);
  await rename(fresh, directory);
  await rm(old, { recursive: true, force: true });
}

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== "ENOENT") throw error;
}

/** The models of a checkpoint; `openOptimizers` brings their optimizers back. */
export async function openCheckpoint(
  directory: string,
  backend: Backend,
): Promise<{ state: RunState; policy: Qwen; reference: Qwen; prm?: Qwen }> {
  const found = await findCheckpoint(directory);
  const state = JSON.parse(await readFile(join(found, STATE), "utf8")) as RunState;
  const [policy, reference] = [
    await loadQwen(join(found, "policy"), { backend }),
    await loadQwen(join(found, "reference"), { backend }),
  ];
  for (const parameter of reference.parameters.values()) parameter.requiresGrad = false;
  const prm = await loadQwen(join(found, "prm"), { backend }).catch((error) => {
    if (error instanceof InputError && /no such folder/.test(error.message)) return undefined;
    throw error;
  });
  return { state, policy, reference, prm };
}

/** Loads the optimizers' state of a checkpoint. */
export async function openOptimizers(
  directory: string,
  { policy, prm }: Pick<RunModels, "policy" | "prm">,
): Promise<void> {
  const found = await findCheckpoint(directory);
  await loadOptimizer(policy, join(found, "policy.optimizer.safetensors"));
  if (prm) await loadOptimizer(prm, join(found, "prm.optimizer.safetensors"));
}

/** A process that was killed between the two renames of a save leaves the old checkpoint under its other name. */
async function findCheckpoint(directory: string): Promise<string> {
  for (const candidate of [directory, `${directory}.old`]) {
    const found = await readFile(join(candidate, STATE)).then(
      () => true,
      () => false,
    );
    if (found) return candidate;
  }
  throw new InputError(`${directory}: no checkpoint there; give the folder of a run that saved one`);
}

/** Writes an optimizer's moments and masters under their own names, and its step count as metadata. */
export async function saveOptimizer({ optimizer }: Learner, path: string): Promise<void> {
  const { step, tensors } = optimizer.state();
  const entries = [...tensors].map(([name, tensor]) => ({
    name,
    dtype: "F32" as const,
    shape: [...tensor.shape],
    data: () => tensor.backend.download(tensor),
  }));
  await writeSafetensors(path, entries, { step: String(step) });
}

export async function loadOptimizer({ model, optimizer }: Learner, path: string): Promise<void> {
  await using file = await openSafetensors(path);
  const tensors = new Map<string, Tensor>();
  for (const [name, { dtype, shape }] of file.tensors) {
    const values = toFloat32(await file.read(name), dtype);
    tensors.set(
      name,
      outsideArenas(() => keep(fromHost(values, { backend: model.backend, shape }))),
    );
  }
  try {
    optimizer.load({ step: Number(file.metadata.step), tensors });
  } finally {
    for (const tensor of tensors.values()) tensor.dispose();
  }
}
