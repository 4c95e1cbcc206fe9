import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import {
  type Backend,
  type DType,
  fromHost,
  InputError,
  keep,
  openSafetensors,
  outsideArenas,
  type SafetensorsDtype,
  type SafetensorsFile,
  type Tensor,
  type TypedArray,
  tensor,
  toFloat32,
  writeSafetensors,
  writeWhole,
} from "../lib/index.js";
import { checkTokenIds, parseConfig, type QwenConfig, toConfigJson } from "./config.js";
import { disposeParameters, type ParameterSpec, parameterSpecs } from "./parameters.js";
import { Qwen } from "./qwen.js";

export interface LoadOptions {
  readonly backend: Backend;
  /** In what the weights are held; default f32. */
  readonly dtype?: DType;
}

/**
 * Loads a model from a Hugging Face folder: config.json and model.safetensors, or shards with their index.
 * @throws InputError where a file is missing, damaged, or does not fit the config.
 */
export async function loadQwen(directory: string, options: LoadOptions): Promise<Qwen> {
  const config = await readConfig(directory);
  const files = await openWeights(directory);
  const parameters = new Map<string, Tensor>();
  try {
    const source = new Map(files.flatMap((file) => [...file.tensors.keys()].map((name) => [name, file] as const)));
    const beyond = [...source.keys()].find(
      (name) => Number(/^model\.layers\.(\d+)\./.exec(name)?.[1] ?? -1) >= config.layers,
    );
    if (beyond)
      throw new InputError(`${directory}: the weights hold ${beyond}, but config.json has ${config.layers} layers`);
    for (const spec of parameterSpecs(config))
      parameters.set(spec.name, await readParameter(spec, source, directory, options));
    return new Qwen(config, parameters);
  } catch (error) {
    disposeParameters(parameters);
    throw error;
  } finally {
    await Promise.all(files.map((file) => file.close()));
  }
}

/** Reads config.json, with the end-of-sequence ids that generation_config.json adds. */
export async function readConfig(directory: string): Promise<QwenConfig> {
  await requireFolder(directory);
  const config = parseConfig(await readJson(join(directory, "config.json")), join(directory, "config.json"));
  const generation = await readForm(
    join(directory, "generation_config.json"),
    generationForm,
    "eos_token_id must be a token id or a list of them; correct it, or remove the file",
  );
  const more = [generation?.eos_token_id ?? []].flat();
  checkTokenIds("eos_token_id", more, config.vocabSize, join(directory, "generation_config.json"));
  const eos = new Set([...config.eosTokenIds, ...more]);
  return { ...config, eosTokenIds: [...eos] };
}

const tokenId = z.int().nonnegative();
const generationForm = z.looseObject({ eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish() });
const indexForm = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

async function requireFolder(directory: string): Promise<void> {
  const found = await stat(directory).catch(() => undefined);
  if (!found?.isDirectory()) throw new InputError(`${directory}: no such folder; give a Hugging Face model folder`);
}

/** Reads a JSON file that a folder may have; undefined where it has none. */
async function readForm<T>(path: string, form: z.ZodType<T>, needs: string): Promise<T | undefined> {
  const json = await readJson(path, { optional: true });
  if (json === undefined) return undefined;
  const parsed = form.safeParse(json);
  if (!parsed.success) throw new InputError(`${path}: ${needs}`);
  return parsed.data;
}

async function readJson(path: string, { optional = false } = {}): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (optional && (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new InputError(`${path}: cannot be read (${(error as NodeJS.ErrnoException).code}); a model folder needs it`);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new InputError(`${path}: not valid JSON (${(error as Error).message}); download it again`);
  }
}

/** Opens model.safetensors or, where that is not there, the shards of the index: transformers' order. */
async function openWeights(directory: string): Promise<SafetensorsFile[]> {
  const isWhole = await stat(join(directory, "model.safetensors")).then(
    () => true,
    () => false,
  );
  const index = isWhole
    ? undefined
    : await readForm(
        join(directory, "model.safetensors.index.json"),
        indexForm,
        "weight_map must name the file of each tensor; download the index again",
      );
  const names = index ? [...new Set(Object.values(index.weight_map))] : ["model.safetensors"];
  const bad = names.find((name) => /[/\\]/.test(name));
  if (bad !== undefined) throw new InputError(`${directory}: the index names '${bad}', which is not a file beside it`);
  const files: SafetensorsFile[] = [];
  try {
    for (const name of names) files.push(await openSafetensors(join(directory, name)));
  } catch (error) {
    await Promise.all(files.map((file) => file.close()));
    throw error;
  }
  return files;
}

const fileDtypes: Partial<Record<SafetensorsDtype, DType>> = { F32: "f32", BF16: "bf16", F16: "f16" };
const hostArrays: Partial<Record<DType, new (buffer: ArrayBuffer) => TypedArray>> = {
  f32: Float32Array,
  bf16: Uint16Array,
  f16: Uint16Array,
};

async function readParameter(
  { name, shape, parts }: ParameterSpec,
  source: ReadonlyMap<string, SafetensorsFile>,
  directory: string,
  { backend, dtype = "f32" }: LoadOptions,
): Promise<Tensor> {
  const loaded: { rows: number; values: TypedArray; dtype: DType }[] = [];
  for (const part of parts) {
    const file = source.get(part.name);
    const info = file?.tensors.get(part.name);
    if (!file || !info)
      throw new InputError(`${directory}: the weights lack ${part.name}, which its config.json asks for`);
    const expected = [part.rows, ...shape.slice(1)];
    if (info.shape.length !== expected.length || info.shape.some((extent, i) => extent !== expected[i])) {
      throw new InputError(
        `${directory}: ${part.name} has shape [${info.shape}], but its config.json asks for [${expected}]`,
      );
    }
    const stored = fileDtypes[info.dtype];
    if (!stored && info.dtype !== "F64") {
      throw new InputError(`${directory}: ${part.name} is ${info.dtype}; weights must be F32, BF16, F16 or F64`);
    }
    const bytes = await file.read(part.name);
    const same = stored === dtype;
    const values = same ? new hostArrays[dtype]!(bytes.buffer) : toFloat32(bytes, info.dtype);
    loaded.push({ rows: part.rows, values, dtype: same ? dtype : "f32" });
  }
  return outsideArenas(() => {
    const size = loaded.reduce((sum, { values }) => sum + values.length, 0);
    const whole = new (loaded[0].values.constructor as new (size: number) => TypedArray)(size);
    let at = 0;
    for (const { values } of loaded) {
      whole.set(values, at);
      at += values.length;
    }
    const direct = loaded.every((part) => part.dtype === dtype);
    const parameter = keep(
      direct ? fromHost(whole, { backend, dtype, shape }) : tensor(whole, { backend, dtype, shape }),
    );
    parameter.requiresGrad = true;
    if (parameter.size !== size) throw new Error(`${name}: ${size} values for ${parameter.size}`);
    return parameter;
  });
}

/** Hugging Face's names as leading-axis views of a parameter set's values, or of anything that follows its shapes. */
export function huggingFaceViews(config: QwenConfig, tensors: ReadonlyMap<string, Tensor>): Map<string, Tensor> {
  const views = new Map<string, Tensor>();
  for (const { name, parts } of parameterSpecs(config)) {
    const whole = tensors.get(name);
    if (!whole) throw new Error(`huggingFaceViews: ${name} is missing`);
    let row = 0;
    for (const part of parts) views.set(part.name, whole.detach().slice(0, row, (row += part.rows)));
  }
  return views;
}

const safetensorsDtypes: Partial<Record<DType, SafetensorsDtype>> = { f32: "F32", bf16: "BF16", f16: "F16" };
const configDtypes: Partial<Record<DType, QwenConfig["dtype"]>> = { f32: "float32", bf16: "bfloat16", f16: "float16" };

/**
 * Writes config.json, generation_config.json and model.safetensors, which transformers and vLLM load. Each file is
 * replaced as a whole, the weights last.
 */
export async function saveQwen(model: Qwen, directory: string): Promise<void> {
  const stored = [...model.parameters.values()][0].dtype;
  const config: QwenConfig = { ...model.config, dtype: configDtypes[stored] ?? "float32" };
  await writeWhole(join(directory, "config.json"), JSON.stringify(toConfigJson(config), undefined, 2));
  const generation = { eos_token_id: config.eosTokenIds.length === 1 ? config.eosTokenIds[0] : config.eosTokenIds };
  await writeWhole(join(directory, "generation_config.json"), JSON.stringify(generation, undefined, 2));
  const entries = [...huggingFaceViews(config, model.parameters)].map(([name, view]) => ({
    name,
    dtype: safetensorsDtypes[view.dtype]!,
    shape: [...view.shape],
    data: () => view.backend.download(view),
  }));
  await writeSafetensors(join(directory, "model.safetensors"), entries, { format: "pt" });
}
