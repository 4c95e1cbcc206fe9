import { access, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import {
  arena,
  type Backend,
  fromHost,
  InputError,
  keep,
  makeFolders,
  noGrad,
  openSafetensors,
  outsideArenas,
  type Tensor,
  toFloat32,
  writeSafetensors,
  writeWhole,
} from "../lib/index.js";
import { loadQwen, type Qwen, saveQwen, type Tokenizer } from "../models/index.js";
import { type CriticModel, freshValueHead } from "./critic.js";
import { type Learner, VALUE_HEAD } from "./learner.js";

const STATE = "state.json";
const HEAD = "critic.value_head.safetensors";

/** What a run has to remember besides weights. Everything random derives from seed and step. */
export interface RunState {
  /** Training steps done. */
  readonly step: number;
  /** The resolved config, for comparison. */
  readonly config: unknown;
  /** Held-out outcome before training. */
  readonly before?: number;
  /** Coefficient of the KL divergence in the reward. */
  readonly klCoefficient?: number;
}

const stateForm = z.object({
  step: z.int().nonnegative(),
  config: z.unknown(),
  // JSON has no NaN, which the outcome is where every conversation failed.
  before: z
    .number()
    .nullish()
    .transform((value) => value ?? undefined),
  klCoefficient: z.number().optional(),
});

/** The models of a run by role; each is saved as a model folder that other tools load. */
export interface RunModels {
  readonly policy: Learner;
  readonly prm?: Learner;
  readonly critic?: Learner;
  readonly reference?: Qwen;
}

/**
 * Writes a checkpoint folder: `policy/`, `reference/`, `prm/` and `critic/`, as far as there are such, in Hugging Face format, the
 * critic's head, the optimizers' state, and state.json. The old checkpoint is replaced only once the new one is complete.
 */
export async function saveCheckpoint(
  directory: string,
  { policy, prm, critic, reference }: RunModels,
  tokenizer: Tokenizer,
  state: RunState,
): Promise<void> {
  await replaceFolder(directory, async (fresh) => {
    const models = { policy: policy.model, prm: prm?.model, critic: critic?.model, reference };
    for (const [role, model] of Object.entries(models)) {
      if (!model) continue;
      await saveQwen(model, join(fresh, role));
      await tokenizer.save(join(fresh, role));
    }
    for (const [role, learner] of Object.entries({ policy, prm, critic })) {
      if (learner) await saveOptimizer(learner, join(fresh, `${role}.optimizer.safetensors`));
    }
    if (critic?.valueHead) await writeTensors(join(fresh, HEAD), new Map([[VALUE_HEAD, critic.valueHead]]));
    await writeWhole(join(fresh, STATE), JSON.stringify(state, undefined, 2));
  });
}

/** The policy with the best held-out outcome so far, for use and not to go on from. */
export interface BestPolicy {
  readonly step: number;
  /** Mean held-out outcome. */
  readonly outcome: number;
}

/** Writes `policy/` and state.json into a folder, in place of what was there once all is written. */
export function saveBestPolicy(directory: string, policy: Qwen, tokenizer: Tokenizer, best: BestPolicy): Promise<void> {
  return replaceFolder(directory, async (fresh) => {
    await saveQwen(policy, join(fresh, "policy"));
    await tokenizer.save(join(fresh, "policy"));
    await writeWhole(join(fresh, STATE), JSON.stringify(best, undefined, 2));
  });
}

/** What the folder's policy reached; undefined where there is none. @throws InputError where the folder is damaged. */
export async function readBestPolicy(directory: string): Promise<BestPolicy | undefined> {
  const path = join(directory, STATE);
  if (!(await exists(path))) return undefined;
  try {
    return bestForm.parse(JSON.parse(await readFile(path, "utf8")));
  } catch {
    throw new InputError(`${path}: damaged; remove the folder`);
  }
}

const bestForm = z.object({ step: z.int().nonnegative(), outcome: z.number() });

/** Fills a new folder and puts it in the old one's place when it is complete; complete is what has a state.json. */
async function replaceFolder(directory: string, fill: (fresh: string) => Promise<void>): Promise<void> {
  const [fresh, old] = [`${directory}.new`, `${directory}.old`];
  await rm(join(fresh, STATE), { force: true });
  await rm(fresh, { recursive: true, force: true });
  await makeFolders(fresh);
  await fill(fresh);
  await rm(old, { recursive: true, force: true });
  await rename(directory, old).catch(ignoreMissing);
  await rename(fresh, directory);
  await rm(old, { recursive: true, force: true });
}

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== "ENOENT") throw error;
}

/** What a checkpoint holds, but for the optimizers, which `openOptimizers` brings back. */
export interface Checkpoint {
  /** Where it was found. */
  readonly folder: string;
  readonly state: RunState;
  readonly policy: Qwen;
  readonly reference: Qwen;
  readonly prm?: Qwen;
  readonly critic?: CriticModel;
}

/** Where a checkpoint was found, and its state. @throws InputError where there is none, or it is damaged. */
export async function openState(directory: string): Promise<Pick<Checkpoint, "folder" | "state">> {
  const folder = await findCheckpoint(directory);
  return { folder, state: await readState(join(folder, STATE)) };
}

/** @throws InputError where one of `keys` is not what the run in `run` began with. */
export function checkUnchanged<C>(
  config: C,
  { config: saved }: RunState,
  keys: readonly (keyof C)[],
  run: string,
): void {
  const changed = keys.find((key) => JSON.stringify(config[key]) !== JSON.stringify((saved as C)[key]));
  if (changed === undefined) return;
  throw new InputError(`${run}: ${String(changed)} differs from what the run began with; leave it out, or start anew`);
}

/** @throws InputError where there is no checkpoint, or it is damaged. */
export async function openCheckpoint(directory: string, backend: Backend): Promise<Checkpoint> {
  const { folder, state } = await openState(directory);
  const load = (role: keyof RunModels) => loadQwen(join(folder, role), { backend });
  const [policy, reference] = [await load("policy"), await load("reference")];
  for (const parameter of reference.parameters.values()) parameter.requiresGrad = false;
  const prm = (await exists(join(folder, "prm"))) ? await load("prm") : undefined;
  const critic = (await exists(join(folder, "critic")))
    ? await openCriticModel(folder, await load("critic"))
    : undefined;
  return { folder, state, policy, reference, prm, critic };
}

async function openCriticModel(folder: string, model: Qwen): Promise<CriticModel> {
  const valueHead = freshValueHead(model);
  const { tensors } = await readTensors(join(folder, HEAD), model.backend);
  const saved = tensors.get(VALUE_HEAD);
  if (!saved || saved.size !== valueHead.size) throw new InputError(`${join(folder, HEAD)}: not this critic's head`);
  arena(() => noGrad(() => valueHead.assign(saved.to(valueHead.dtype))));
  for (const tensor of tensors.values()) tensor.dispose();
  return { model, valueHead };
}

async function readState(path: string): Promise<RunState> {
  try {
    return stateForm.parse(JSON.parse(await readFile(path, "utf8")));
  } catch {
    throw new InputError(`${path}: damaged, or not a run's state; resume from another checkpoint`);
  }
}

/** Loads the optimizers' state of a checkpoint. */
export async function openOptimizers(
  { folder }: Pick<Checkpoint, "folder">,
  { policy, prm, critic }: Pick<RunModels, "policy" | "prm" | "critic">,
): Promise<void> {
  for (const [role, learner] of Object.entries({ policy, prm, critic })) {
    if (learner) await loadOptimizer(learner, join(folder, `${role}.optimizer.safetensors`));
  }
}

/** A process that was killed between the renames of a save leaves the checkpoint under another name: the newest counts. */
async function findCheckpoint(directory: string): Promise<string> {
  for (const candidate of [directory, `${directory}.new`, `${directory}.old`]) {
    if (await exists(join(candidate, STATE))) return candidate;
  }
  throw new InputError(`${directory}: no checkpoint there; give the folder of a run that saved one`);
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** Writes an optimizer's moments and masters under their own names, and its step count as metadata. */
export async function saveOptimizer({ optimizer }: Learner, path: string): Promise<void> {
  const { step, tensors } = optimizer.state();
  await writeTensors(path, tensors, { step: String(step) });
}

/** Writes tensors in f32. */
function writeTensors(
  path: string,
  tensors: ReadonlyMap<string, Tensor>,
  metadata: Record<string, string> = {},
): Promise<void> {
  const entries = [...tensors].map(([name, tensor]) => ({
    name,
    dtype: "F32" as const,
    shape: [...tensor.shape],
    data: async () => new Float32Array(await tensor.data()),
  }));
  return writeSafetensors(path, entries, metadata);
}

/** @throws InputError where the file is damaged or another model's. */
export async function loadOptimizer({ model, optimizer }: Learner, path: string): Promise<void> {
  const { tensors, metadata } = await readTensors(path, model.backend);
  try {
    const step = Number(metadata.step);
    if (!Number.isInteger(step)) throw new InputError(`${path}: it does not say its step; take another checkpoint`);
    optimizer.load({ step, tensors });
  } finally {
    for (const tensor of tensors.values()) tensor.dispose();
  }
}

/** Tensors in f32, which the caller disposes of. */
async function readTensors(path: string, backend: Backend) {
  await using file = await openSafetensors(path);
  const tensors = new Map<string, Tensor>();
  for (const [name, { dtype, shape }] of file.tensors) {
    const values = toFloat32(await file.read(name), dtype);
    tensors.set(
      name,
      outsideArenas(() => keep(fromHost(values, { backend, shape }))),
    );
  }
  return { tensors, metadata: file.metadata };
}
