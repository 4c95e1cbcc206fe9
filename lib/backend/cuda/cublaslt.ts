import koffi from "koffi";
import type { DType } from "../../dtype.js";
import { copyBytes } from "./copies.js";
import type { CudaDevice } from "./device.js";
import { CudaError, out64 } from "./driver.js";
import type { Block } from "./heap.js";
import { cudaLibrary } from "./libraries.js";
import { ChoiceTable, commonRows, FEW_ROWS, fastest, sixteenth } from "./tune.js";

/** One matrix of a product: row-major [rows, columns] as stored, with the distance between rows in elements. */
export interface Matrix {
  readonly address: number;
  readonly pitch: number;
}

/** c [m, n] = alpha·a [m, k]·b [k, n] (+ bias [n]) (+ beta·addend [m, n]), all row-major. */
export interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** `a` is stored [k, m]. */
  readonly transposeA: boolean;
  /** `b` is stored [n, k]. */
  readonly transposeB: boolean;
  readonly a: Matrix;
  readonly b: Matrix;
  readonly c: Matrix;
  /** Of a and b; products are summed in f32 either way. */
  readonly dtype: DType;
  /** Of c and the addend. Default: `dtype`. */
  readonly resultDtype?: DType;
  /** Default 1. */
  readonly alpha?: number;
  /** [n], of c's dtype. */
  readonly bias?: number;
  /** Added to the product; may be c itself. */
  readonly addend?: Matrix;
  /** So many products, whose operands follow each other without gaps. Default 1. */
  readonly batch?: number;
}

// cudaDataType_t
const dataTypes: Partial<Record<DType, number>> = { f32: 0, f16: 2, bf16: 14 };
// cublasComputeType_t
const COMPUTE_32F = 68;
// cublasLtMatmulDescAttributes_t
const [DESC_TRANSA, DESC_TRANSB, DESC_EPILOGUE, DESC_BIAS_POINTER] = [3, 4, 7, 8];
const EPILOGUE_BIAS = 4;
// cublasLtMatrixLayoutAttribute_t
const [LAYOUT_BATCH_COUNT, LAYOUT_STRIDE] = [5, 6];
// cublasLtMatmulPreferenceAttributes_t
const [PREFER_WORKSPACE, PREFER_REDUCTION, PREFER_ALIGNMENT_A] = [1, 3, 5];
/** Bytes of cublasLtMatmulHeuristicResult_t, which begins with a cublasLtMatmulAlgo_t. */
const RESULT_BYTES = 96;
const ALGORITHM_BYTES = 64;
/** Where in that the bytes stand that the algorithm works in. */
const RESULT_WORKSPACE = 64;
const WORKSPACE_BYTES = 32 * 2 ** 20;
/** Packed batches come in ever new sizes: beyond so many the plan made first is forgotten. */
const MOST_PLANS = 4096;
/**
 * Of a product with so many operations, or with so many weights, the fastest of the heuristic's first CANDIDATES algorithms is
 * taken.
 */
const TUNED_FLOPS = 2 ** 32;
const TUNED_WEIGHTS = 2 ** 21;
const CANDIDATES = 8;
/**
 * Numbers of rows whose algorithms are tried for fewer rows too: of those for a few rows the heuristic puts first what splits
 * the inner axis, and without those nothing good remains (249 µs for 64 × 2048 × 11008, where that for 256 rows takes 26).
 */
const ROWS_OF_OTHERS = [64, 128, 256];

interface Plan {
  readonly desc: number;
  readonly operands: Operands;
  /** Begins with its cublasLtMatmulAlgo_t. */
  readonly algo: Uint8Array;
  /** The bias that `desc` names now. */
  bias: number;
}

/** What cuBLASLt calls A, B, C and D: layouts of b, a, c and c. */
type Operands = readonly [first: number, second: number, addend: number, result: number];

type Call = (...args: unknown[]) => void;

/**
 * Matrix products by cuBLASLt. Plans (descriptors and an algorithm) are kept by shape. Algorithms that split the inner axis
 * and add the parts afterwards are excluded: with one order of accumulation a row of the result has the same bits whatever
 * the number of rows. Among the others the fastest is taken, of those that give the same bits (tune.ts).
 */
export class CublasLt {
  readonly version: string;
  readonly #handle: number;
  readonly #plans = new Map<string, Plan>();
  /** The fastest algorithm for products of about the same size. */
  readonly #tuned: ChoiceTable;
  readonly #matmul: Call;
  readonly #heuristic: Call;
  /** Gives the status back: whether an algorithm takes a product. */
  readonly #check: (...args: unknown[]) => number;
  readonly #descCreate: Call;
  readonly #descSet: Call;
  readonly #descDestroy: Call;
  readonly #layoutCreate: Call;
  readonly #layoutSet: Call;
  readonly #layoutDestroy: Call;
  readonly #preference: number;
  readonly #preferenceSet: Call;
  readonly #workspace: number;
  /** Host memory with alpha, then beta: the call takes their addresses. */
  readonly #scalars: Float32Array;
  readonly #scalarsAt: number;

  constructor(private readonly device: CudaDevice) {
    const library = cudaLibrary("cublasLt");
    const bind = (name: string, parameters: string): Call => {
      const fn = library.func(`int ${name}(${parameters})`);
      return (...args) => {
        const status = fn(...args) as number;
        if (status !== 0) throw new CudaError(name, status, statuses[status] ?? `status ${status}`);
      };
    };
    const version = Number(library.func("uint64_t cublasLtGetVersion(void)")());
    this.version = `${Math.floor(version / 10000)}.${Math.floor((version % 10000) / 100)}.${version % 100}`;
    this.#tuned = new ChoiceTable(device, `cublasLt ${this.version}`);
    const create = bind("cublasLtCreate", "uint64_t *handle");
    const preferenceCreate = bind("cublasLtMatmulPreferenceCreate", "uint64_t *preference");
    this.#preferenceSet = bind("cublasLtMatmulPreferenceSetAttribute", "uint64_t, int, void *value, uint64_t bytes");
    this.#descCreate = bind("cublasLtMatmulDescCreate", "uint64_t *desc, int computeType, int scaleType");
    this.#descSet = bind("cublasLtMatmulDescSetAttribute", "uint64_t, int, void *value, uint64_t bytes");
    this.#descDestroy = bind("cublasLtMatmulDescDestroy", "uint64_t");
    this.#layoutCreate = bind(
      "cublasLtMatrixLayoutCreate",
      "uint64_t *layout, int type, uint64_t rows, uint64_t columns, int64_t pitch",
    );
    this.#layoutSet = bind("cublasLtMatrixLayoutSetAttribute", "uint64_t, int, void *value, uint64_t bytes");
    this.#layoutDestroy = bind("cublasLtMatrixLayoutDestroy", "uint64_t");
    this.#heuristic = bind(
      "cublasLtMatmulAlgoGetHeuristic",
      "uint64_t handle, uint64_t desc, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t preference, int count, void *results, int *found",
    );
    this.#check = library.func(
      "int cublasLtMatmulAlgoCheck(uint64_t handle, uint64_t desc, uint64_t a, uint64_t b, uint64_t c, uint64_t d, void *algo, void *result)",
    ) as (...args: unknown[]) => number;
    this.#matmul = bind(
      "cublasLtMatmul",
      "uint64_t handle, uint64_t desc, uint64_t alpha, uint64_t a, uint64_t aLayout, uint64_t b, uint64_t bLayout, uint64_t beta, uint64_t c, uint64_t cLayout, uint64_t d, uint64_t dLayout, void *algo, uint64_t workspace, uint64_t workspaceBytes, uint64_t stream",
    );
    this.#handle = out64(create);
    this.#preference = out64(preferenceCreate);
    this.#preferenceSet(this.#preference, PREFER_WORKSPACE, BigUint64Array.of(BigInt(WORKSPACE_BYTES)), 8);
    this.#preferenceSet(this.#preference, PREFER_REDUCTION, Uint32Array.of(0), 4);
    this.#scalarsAt = Number(koffi.alloc("float", 2));
    this.#scalars = new Float32Array(koffi.view(this.#scalarsAt, 8));
    this.#workspace = device.takeBytes(WORKSPACE_BYTES, "cuBLASLt workspace").address;
  }

  /** Enqueues a product. */
  multiply(product: Product): void {
    const { m, n, k, dtype, resultDtype = dtype, batch = 1, addend } = product;
    if (m === 0 || n === 0 || batch === 0) return;
    const plan = this.#plan(product);
    const [size, resultSize] = [bytesOf(dtype), bytesOf(resultDtype)];
    this.device.timed(
      `matmul ${m}×${n}×${k}`,
      {
        flops: 2 * batch * m * n * k,
        bytes: batch * ((m * k + k * n) * size + m * n * resultSize * (addend ? 2 : 1)),
      },
      () => this.#run(product, plan, plan.algo, product.c.address),
    );
  }

  #run({ alpha = 1, a, b, c, bias, addend }: Product, plan: Plan, algo: Uint8Array, target: number): void {
    if (bias !== undefined && bias !== plan.bias) {
      this.#descSet(plan.desc, DESC_BIAS_POINTER, BigUint64Array.of(BigInt(bias)), 8);
      plan.bias = bias;
    }
    this.#scalars[0] = alpha;
    this.#scalars[1] = addend ? 1 : 0;
    const [first, second, result] = plan.operands;
    this.#matmul(
      this.#handle,
      plan.desc,
      this.#scalarsAt,
      b.address,
      first,
      a.address,
      second,
      this.#scalarsAt + 4,
      (addend ?? c).address,
      result,
      target,
      result,
      algo,
      this.#workspace,
      WORKSPACE_BYTES,
      this.device.stream,
    );
  }

  /** cuBLASLt is column-major: cᵀ = bᵀ·aᵀ, so its first operand is our b. */
  #plan(product: Product): Plan {
    const { m, n, k, transposeA, transposeB, a, b, c, dtype, resultDtype = dtype, batch = 1, addend } = product;
    if (addend && addend.pitch !== c.pitch) throw new Error("matmul: the addend must have the pitch of the result");
    const alignments = [b.address, a.address, addend?.address ?? c.address, c.address].map(alignmentOf);
    const form = `${transposeA} ${transposeB} ${dtype} ${resultDtype} ${product.bias !== undefined} ${alignments}`;
    const key = `${form} ${!!addend} ${m} ${n} ${k} ${a.pitch} ${b.pitch} ${c.pitch} ${batch}`;
    const known = this.#plans.get(key);
    if (known) return known;
    if (dataTypes[dtype] === undefined || dataTypes[resultDtype] === undefined) {
      throw new Error(`matmul: cuda multiplies f32, bf16 and f16; here ${dtype} gives ${resultDtype}`);
    }
    const desc = out64((result) => this.#descCreate(result, COMPUTE_32F, 0));
    this.#descSet(desc, DESC_TRANSA, Int32Array.of(transposeB ? 1 : 0), 4);
    this.#descSet(desc, DESC_TRANSB, Int32Array.of(transposeA ? 1 : 0), 4);
    if (product.bias !== undefined) {
      this.#descSet(desc, DESC_EPILOGUE, Int32Array.of(EPILOGUE_BIAS), 4);
      this.#descSet(desc, DESC_BIAS_POINTER, BigUint64Array.of(BigInt(product.bias)), 8);
    }
    alignments.forEach((alignment, i) => {
      this.#preferenceSet(this.#preference, PREFER_ALIGNMENT_A + i, Uint32Array.of(alignment), 4);
    });
    const operands = this.#layouts(product, m);
    const large = (2 * batch * m * n * k >= TUNED_FLOPS || n * k >= TUNED_WEIGHTS) && c.pitch === n;
    const chosen = large ? this.#fastest(product, desc, operands, form) : undefined;
    const algo = chosen ?? this.#few(product, desc, operands);
    const plan: Plan = { desc, operands, algo, bias: product.bias ?? 0 };
    if (this.#plans.size === MOST_PLANS) this.#forgetFirst();
    this.#plans.set(key, plan);
    return plan;
  }

  /** Layouts of a product as if it had `m` rows. */
  #layouts(
    { n, k, transposeA, transposeB, a, b, c, dtype, resultDtype = dtype, batch = 1 }: Product,
    m: number,
  ): Operands {
    const layout = (as: DType, rows: number, columns: number, pitch: number, stride: number) => {
      const handle = out64((result) => this.#layoutCreate(result, dataTypes[as], rows, columns, pitch));
      if (batch > 1) {
        this.#layoutSet(handle, LAYOUT_BATCH_COUNT, Int32Array.of(batch), 4);
        this.#layoutSet(handle, LAYOUT_STRIDE, BigInt64Array.of(BigInt(stride)), 8);
      }
      return handle;
    };
    const result = layout(resultDtype, n, m, c.pitch, m * n);
    return [
      layout(dtype, transposeB ? k : n, transposeB ? n : k, b.pitch, k * n),
      layout(dtype, transposeA ? m : k, transposeA ? k : m, a.pitch, m * k),
      result,
      result,
    ];
  }

  /** The heuristic's first algorithms, the best first. */
  #algorithms({ dtype, m, n, k }: Product, desc: number, operands: Operands, most: number): Uint8Array[] {
    const results = new Uint8Array(most * RESULT_BYTES);
    const found = new Int32Array(1);
    try {
      this.#heuristic(this.#handle, desc, ...operands, this.#preference, most, results, found);
    } catch (error) {
      throw new Error(`matmul: no algorithm for ${dtype} ${m}×${n}×${k} (${(error as Error).message})`);
    }
    if (found[0] === 0) throw new Error(`matmul: cuBLASLt has no algorithm for ${dtype} ${m}×${n}×${k}`);
    return Array.from({ length: found[0] }, (_, i) => results.slice(i * RESULT_BYTES, (i + 1) * RESULT_BYTES));
  }

  #takes(desc: number, operands: Operands, algo: Uint8Array): boolean {
    const result = new Uint8Array(RESULT_BYTES);
    if (this.#check(this.#handle, desc, ...operands, algo, result) !== 0) return false;
    return new DataView(result.buffer).getBigUint64(RESULT_WORKSPACE, true) <= WORKSPACE_BYTES;
  }

  /** The algorithm that the heuristic ranks first; for a few rows that for FEW_ROWS of them, where it does. */
  #few(product: Product, desc: number, operands: Operands): Uint8Array {
    if (product.m < FEW_ROWS && !product.transposeA) {
      const more = this.#layouts(product, FEW_ROWS);
      const [algo] = this.#algorithms(product, desc, more, 1);
      for (const layout of new Set(more)) this.#layoutDestroy(layout);
      if (this.#takes(desc, operands, algo)) return algo;
    }
    return this.#algorithms(product, desc, operands, 1)[0];
  }

  /** The algorithm that is the fastest for products of about this size, where it takes this one. */
  #fastest(product: Product, desc: number, operands: Operands, form: string): Uint8Array | undefined {
    const { m, n, k, batch = 1 } = product;
    const rows = commonRows(product);
    const key = `${form} ${rows === undefined ? [m, n, k].map(sixteenth) : [rows, n, k]} ${batch}`;
    let algo = this.#tuned.get(key);
    if (!algo && !this.device.recording) {
      algo = this.#choose(product, desc, rows ?? m);
      if (algo) this.#tuned.set(key, algo);
    }
    return algo && this.#takes(desc, operands, algo) ? algo : undefined;
  }

  /** Tries algorithms on a product whose rows are repeated up to `rows`: what is chosen is for all that have no more. */
  #choose(product: Product, desc: number, rows: number): Uint8Array | undefined {
    const { m, n, k, dtype, resultDtype = dtype, batch = 1 } = product;
    const blocks: Block[] = [];
    const repeat = ({ address, pitch }: Matrix, columns: number, size: number): Matrix | undefined => {
      if (m === rows) return { address, pitch };
      const block = this.device.tryTakeBytes(rows * pitch * size, "choice of an algorithm");
      if (!block) return undefined;
      blocks.push(block);
      for (let row = 0; row < rows; row += m) {
        const bytes = ((Math.min(m, rows - row) - 1) * pitch + columns) * size;
        copyBytes(this.device, block.address + row * pitch * size, address, bytes);
      }
      return { address: block.address, pitch };
    };
    let operands: Operands | undefined;
    try {
      const a = repeat(product.a, k, bytesOf(dtype));
      const addend = product.addend && repeat(product.addend, n, bytesOf(resultDtype));
      if (!a || (product.addend && !addend)) return undefined;
      const whole = { ...product, m: rows, a, addend };
      operands = this.#layouts(whole, rows);
      const plan = { desc, operands, algo: this.#few(whole, desc, operands), bias: product.bias ?? 0 };
      const candidates = this.#candidates(whole, plan);
      const best = fastest(this.device, candidates.length, batch * rows * n * bytesOf(resultDtype), (i, target) =>
        this.#run(whole, plan, candidates[i], target),
      );
      return best === undefined ? undefined : candidates[best];
    } finally {
      for (const layout of new Set(operands)) this.#layoutDestroy(layout);
      for (const block of blocks) this.device.giveBytes(block);
    }
  }

  /** Algorithms that may be the fastest for a product, its plan's first. */
  #candidates(product: Product, { desc, operands, algo }: Plan): Uint8Array[] {
    const all = [algo, ...this.#algorithms(product, desc, operands, CANDIDATES)];
    for (const rows of product.transposeA ? [] : ROWS_OF_OTHERS.filter((rows) => rows > product.m)) {
      const more = this.#layouts(product, rows);
      all.push(...this.#algorithms(product, desc, more, CANDIDATES));
      for (const layout of new Set(more)) this.#layoutDestroy(layout);
    }
    const different = new Map(
      all.map((each) => [Buffer.from(each.subarray(0, ALGORITHM_BYTES)).toString("base64"), each]),
    );
    return [...different.values()].filter((each) => this.#takes(desc, operands, each));
  }

  /** What was enqueued has taken what it needs of its plan. */
  #forgetFirst(): void {
    const [[key, { desc, operands }]] = this.#plans;
    for (const layout of new Set(operands)) this.#layoutDestroy(layout);
    this.#descDestroy(desc);
    this.#plans.delete(key);
  }
}

// cublasStatus_t
const statuses: Readonly<Record<number, string>> = {
  1: "not initialized",
  3: "allocation failed",
  7: "invalid value",
  8: "architecture mismatch",
  11: "mapping error",
  13: "execution failed",
  14: "internal error",
  15: "not supported",
};

function bytesOf(dtype: DType): number {
  return dtype === "f32" ? 4 : 2;
}

/** The largest power of two, up to 256, that divides an address. */
function alignmentOf(address: number): number {
  const low = address % 256;
  return low === 0 ? 256 : low & -low;
}
