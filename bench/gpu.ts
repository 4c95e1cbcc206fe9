/*
 * What the GPU benchmarks share: the shapes of Qwen2.5, opening a device, times, roofs, tables, and the peers in Python.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import type { CudaBackend } from "../lib/backend/cuda/index.js";
import { type Backend, type DType, openDevice, type Tensor, tensor, zeros } from "../lib/index.js";
import { parameterSpecs, type QwenConfig } from "../models/index.js";
import { root } from "../test/support.js";

const qwen25 = {
  architecture: "qwen2",
  vocabSize: 151_936,
  headDim: 128,
  maxPositions: 32_768,
  rmsNormEps: 1e-6,
  ropeTheta: 1e6,
  qkvBias: true,
  qkNorm: false,
  eosTokenIds: [],
  initializerRange: 0.02,
  tieWordEmbeddings: true,
  dtype: "bfloat16",
} as const;

/** The sizes of Qwen2.5 by name, and `tiny`, on which the benchmarks themselves can be tried on a cpu. */
export const models: Readonly<Record<string, QwenConfig>> = {
  tiny: {
    ...qwen25,
    vocabSize: 500,
    hiddenSize: 64,
    intermediateSize: 160,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    headDim: 16,
  },
  "0.5b": { ...qwen25, hiddenSize: 896, intermediateSize: 4864, layers: 24, heads: 14, kvHeads: 2, headDim: 64 },
  "1.5b": { ...qwen25, hiddenSize: 1536, intermediateSize: 8960, layers: 28, heads: 12, kvHeads: 2 },
  "3b": { ...qwen25, hiddenSize: 2048, intermediateSize: 11_008, layers: 36, heads: 16, kvHeads: 2 },
  "7b": {
    ...qwen25,
    vocabSize: 152_064,
    hiddenSize: 3584,
    intermediateSize: 18_944,
    layers: 28,
    heads: 28,
    kvHeads: 4,
    tieWordEmbeddings: false,
  },
};

/** What the device could do at most, as measured with large bf16 products and copies. */
export interface Roof {
  readonly tflops: number;
  readonly gbs: number;
}

const roofs: readonly (readonly [name: RegExp, roof: Roof])[] = [
  [/H200/, { tflops: 790, gbs: 4300 }],
  [/H100/, { tflops: 798, gbs: 3000 }],
];

/** A device under test. */
export interface Bench {
  readonly backend: Backend;
  /** The backend again where it is a GPU. */
  readonly cuda: CudaBackend | undefined;
  readonly roof: Roof | undefined;
  readonly model: string;
  readonly config: QwenConfig;
  readonly tokens: number;
  /** How often something is timed; medians are printed. */
  readonly repeats: number;
  /** Whether to run the peers too. */
  readonly peers: boolean;
  /** Further flags, as given. */
  readonly flags: Readonly<Record<string, string | boolean | undefined>>;
}

/** Reads `--model 3b --tokens N --repeats N --device cuda --no-peers` and `extra` flags, and opens the device. */
export async function openBench(
  defaults: { tokens: number; model?: string },
  extra: readonly string[] = [],
): Promise<Bench> {
  const { values } = parseArgs({
    options: {
      model: { type: "string", default: defaults.model ?? "3b" },
      tokens: { type: "string", default: String(defaults.tokens) },
      repeats: { type: "string", default: "10" },
      device: { type: "string", default: "cuda" },
      "no-peers": { type: "boolean", default: false },
      ...Object.fromEntries(extra.map((name) => [name.replace("=", ""), flagOf(name)])),
    },
  });
  const config = models[values.model as string];
  if (!config) throw new Error(`model '${values.model}' does not exist; there are ${Object.keys(models).join(", ")}`);
  const backend = await openDevice(values.device as string);
  const cuda = "device" in backend ? (backend as CudaBackend) : undefined;
  console.log(`${backend.name}: ${backend.description}`);
  return {
    backend,
    cuda,
    roof: roofs.find(([name]) => cuda && name.test(cuda.device.name))?.[1],
    model: values.model as string,
    config,
    tokens: Number(values.tokens),
    repeats: Number(values.repeats),
    peers: !values["no-peers"] && cuda !== undefined,
    flags: values as Bench["flags"],
  };
}

function flagOf(name: string): { type: "string" } | { type: "boolean" } {
  return name.endsWith("=") ? { type: "string" } : { type: "boolean" };
}

export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

export interface Timing {
  /** Median of what the device took, in milliseconds. */
  readonly ms: number;
  /** Median of what this thread took to enqueue it. */
  readonly hostMs: number;
  /** Kernels launched each time. */
  readonly launches: number;
}

/** Times synchronous work, after it has run twice. On a cpu, which has nothing to enqueue, both times are one. */
export function time({ cuda, repeats }: Pick<Bench, "cuda" | "repeats">, work: () => void): Timing {
  const [device, host]: [number[], number[]] = [[], []];
  let launches = 0;
  for (let i = -2; i < repeats; i++) {
    const before = cuda?.device.launches ?? 0;
    let hostMs = 0;
    const enqueue = () => {
      const start = performance.now();
      work();
      hostMs = performance.now() - start;
    };
    let ms: number;
    if (cuda) {
      cuda.device.synchronize();
      ms = cuda.device.time(enqueue);
    } else {
      enqueue();
      ms = hostMs;
    }
    launches = (cuda?.device.launches ?? 0) - before;
    if (i < 0) continue;
    device.push(ms);
    host.push(hostMs);
  }
  return { ms: median(device), hostMs: median(host), launches };
}

/** Times asynchronous work by the clock on the wall, until the device is done with it. */
export async function timeAsync(
  { cuda, repeats }: Pick<Bench, "cuda" | "repeats">,
  work: () => Promise<void>,
): Promise<number> {
  const times: number[] = [];
  for (let i = -2; i < repeats; i++) {
    cuda?.device.synchronize();
    const start = performance.now();
    await work();
    cuda?.device.synchronize();
    if (i >= 0) times.push(performance.now() - start);
  }
  return median(times);
}

/** One line of a table: something that took `ms`, with the operations or the bytes it needs at least. */
export interface Row {
  readonly label: string;
  readonly ms: number;
  readonly flops?: number;
  readonly bytes?: number;
  readonly note?: string;
}

/** Prints lines with their rate and its share of the roof. */
export function printRows(rows: readonly Row[], roof: Roof | undefined): void {
  for (const { label, ms, flops, bytes, note = "" } of rows) {
    const rate = flops !== undefined ? flops / ms / 1e9 : (bytes ?? 0) / ms / 1e6;
    const [unit, top] = flops !== undefined ? ["TFLOP/s", roof?.tflops] : ["GB/s   ", roof?.gbs];
    const share = top ? `${((100 * rate) / top).toFixed(0)} %` : "–";
    const shown = rate >= 100 ? rate.toFixed(0) : rate.toPrecision(3);
    console.log(
      `${label.padEnd(60)}${ms.toFixed(3).padStart(10)} ms${shown.padStart(9)} ${unit}${share.padStart(7)}  ${note}`,
    );
  }
}

const python = process.env.PYTHON ?? "python3";
let torch: boolean | undefined;

/**
 * Runs `bench/peers/NAME.py` with a JSON argument and prints its rows as they come, one JSON array a line, below ours.
 * Says so and goes on where Python has no torch, or where the script takes more than `limit` seconds: compilers may.
 */
export async function runPeer(name: string, spec: unknown, roof: Roof | undefined, limit?: number): Promise<Row[]> {
  torch ??= spawnSync(python, ["-c", "import torch; assert torch.cuda.is_available()"]).status === 0;
  if (!torch) {
    console.log(`peer ${name}: skipped, ${python} has no torch with a GPU`);
    return [];
  }
  const script = join(root, "bench", "peers", `${name}.py`);
  const peer = spawn(python, [script, JSON.stringify(spec)], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1" },
  });
  const ended = once(peer, "close");
  const lines = createInterface({ input: peer.stdout });
  const late = () => {
    peer.kill("SIGKILL");
    lines.close();
    // A compiler's workers may hold these open a while longer.
    for (const stream of [peer.stdout, peer.stderr]) stream.destroy();
  };
  const timer = limit === undefined ? undefined : setTimeout(late, 1000 * limit);
  let complaints = "";
  peer.stderr.setEncoding("utf8").on("data", (text: string) => {
    complaints = (complaints + text).slice(-10_000);
  });
  const rows: Row[] = [];
  for await (const line of lines) {
    if (!line.startsWith("[")) continue;
    const more = JSON.parse(line) as Row[];
    printRows(more, roof);
    rows.push(...more);
  }
  const [status] = await ended;
  clearTimeout(timer);
  if (status === null) console.log(`peer ${name}: no end after ${limit} s`);
  else if (status !== 0)
    console.log(`peer ${name}: ended with ${status}\n${complaints.split("\n").slice(-6).join("\n")}`);
  return rows;
}

const TILE = 1_048_573;

/** A whole number below 2³² that looks random, the same in bench/peers/weights.py. */
function hash(i: number): number {
  let h = (i + 0x9e3779b9) >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/**
 * A fixed sequence of 1,048,573 uniform numbers of mean 0 and standard deviation `std`, twice, so that it can be read from
 * anywhere; what `tile` repeats.
 */
export function weightSequence(backend: Backend, dtype: DType, std = 0.02): Tensor {
  const values = new Float64Array(2 * TILE);
  for (let i = 0; i < 2 * TILE; i++) values[i] = std * Math.sqrt(3) * (2 * (hash(i % TILE) / 2 ** 32) - 1);
  return tensor(values, { backend, dtype });
}

/**
 * Element i of `target` becomes number (i + salt) mod 1,048,573 of a sequence. The period is prime: no two rows of a matrix
 * are equal. For billions of elements, where a random generator on the host takes minutes; bench/peers/weights.py makes
 * the same ones.
 */
export function tile(target: Tensor, sequence: Tensor, salt = 0): void {
  const { backend, size, storage } = target;
  for (let from = 0; from < size; from += TILE) {
    const shape = [Math.min(TILE, size - from)];
    backend.assign({ storage, offset: from, shape }, { storage: sequence.storage, offset: salt % TILE, shape });
  }
  storage.version++;
}

/** Between the parameters' places in the sequence of weights; the same in bench/peers/weights.py. */
export const SALT = 7919;

/** Parameters of a shape, in bf16 with the weights that bench/peers/weights.py gives the peer. */
export function randomParameters(backend: Backend, config: QwenConfig, dtype: DType = "bf16"): Map<string, Tensor> {
  const weights = weightSequence(backend, dtype);
  const parameters = new Map(
    parameterSpecs(config).map(({ name, shape, start }, i): [string, Tensor] => {
      const parameter = zeros(shape, { backend, dtype });
      if (start === "normal") tile(parameter, weights, i * SALT);
      if (start === "ones") {
        using ones = zeros(shape, { backend, dtype }).add(1);
        parameter.assign(ones);
      }
      return [name, parameter];
    }),
  );
  weights.dispose();
  return parameters;
}

/** Token ids that look random, below `vocabulary`, the same in bench/peers/weights.py. */
export function tokenIds(count: number, vocabulary: number, seed: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => hash(i + 7_000_003 * (seed + 1)) % vocabulary);
}
