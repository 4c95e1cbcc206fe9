import test from "ava";
import type { Backend } from "../../../../lib/backend/backend.js";
import { adapt } from "../../../../lib/backend/tfjs/adapt.js";
import { loadEngine } from "../../../../lib/backend/tfjs/engines.js";
import {
  Arena,
  backward,
  concat,
  createCpu,
  type DType,
  type Shape,
  type Tensor,
  tensor,
} from "../../../../lib/index.js";
import { sizeOf } from "../../../../lib/shape.js";
import { normals } from "../../support.js";

export const cpu = createCpu();
const [wasmEngine, cpuEngine] = [await loadEngine("wasm"), await loadEngine("cpu")];
/** Both kinds of adapter: with the host's kernels, and with operations of the engine alone, as for tfjs-node. */
export const devices: readonly (readonly [name: string, backend: Backend])[] = [
  ["wasm", adapt(wasmEngine)],
  ["cpu", adapt(cpuEngine)],
  ["engine alone", adapt({ ...cpuEngine, host: undefined })],
];
const { tf } = wasmEngine;

/** Makes an input of a case: of values drawn from a fixed seed, or given. */
export type Source = (shape: Shape, values?: ArrayLike<number>, dtype?: DType) => Tensor;

/** Ways for the same values to lie in memory. */
const layouts: Record<string, (backend: Backend) => Source> = {
  whole: drawn,
  "just computed": (backend) => through(backend, (x) => x.transpose()),
  "inside a larger storage": (backend) => through(backend, (x) => between(x).slice(0, 1, 2)),
  "inside one just computed": (backend) => through(backend, (x) => between(x).permute([0, 1]).slice(0, 1, 2)),
};

/** Sends each input, as a row [1, size], through `fn`. */
function through(backend: Backend, fn: (row: Tensor) => Tensor): Source {
  const make = drawn(backend);
  return (...input) => {
    const x = make(...input);
    return fn(x.reshape([1, x.size])).reshape(x.shape);
  };
}

function between(row: Tensor): Tensor {
  const ones = row.equal(row).to(row.dtype);
  return concat([ones, row, ones], 0);
}

export function drawn(backend: Backend): Source {
  let seed = 0;
  return (shape, values = normals(++seed, sizeOf(shape)), dtype = "f32") => tensor(values, { backend, dtype, shape });
}

type Case = (make: Source) => Tensor | Tensor[];

/** Results of a case with everything freed again. */
async function results(work: Case, source: Source): Promise<{ dtype: DType; shape: Shape; values: number[] }[]> {
  using owner = new Arena();
  const tensors = [owner.run(() => work(source))].flat();
  const read = async (x: Tensor) => ({ dtype: x.dtype, shape: x.shape, values: Array.from(await x.data()) });
  try {
    return await Promise.all(tensors.map(read));
  } finally {
    for (const x of tensors) x.dispose();
  }
}

/** What adapters and engines hold now. */
export function held(): unknown {
  return [tf.memory().numTensors, ...devices.map(([, { memory }]) => [memory().bytes, memory().buffers])];
}

/** Every case gives on every device, from every layout, what the cpu backend gives, and leaves nothing behind. */
export function agrees(title: string, cases: Record<string, Case>, tolerance = 2e-6, on = devices): void {
  for (const [name, backend] of on) {
    test.serial(`${title}, ${name}: as on cpu, however the inputs lie, and nothing is left behind`, async (t) => {
      for (const [label, work] of Object.entries(cases)) {
        const expected = await results(work, drawn(cpu));
        for (const [layout, source] of Object.entries(layouts)) {
          const before = held();
          const actual = await results(work, source(backend));
          t.deepEqual(held(), before, `${label}, ${layout}`);
          t.is(actual.length, expected.length);
          actual.forEach(({ dtype, shape, values }, i) => {
            const message = `${label}, result ${i}, input ${layout}`;
            t.is(dtype, expected[i].dtype, message);
            t.deepEqual(shape, expected[i].shape, message);
            if (dtype !== "f32") t.deepEqual(values, expected[i].values, message);
            else
              t.true(gap(values, expected[i].values) <= tolerance, `${message}: ${values} for ${expected[i].values}`);
          });
        }
      }
    });
  }
}

/** Largest difference over the largest expected value; infinite where one is infinite or NaN and the other is not. */
export function gap(actual: readonly number[], expected: readonly number[]): number {
  let difference = 0;
  actual.forEach((value, i) => {
    if (Object.is(value + 0, expected[i] + 0)) return;
    const distance = Math.abs(value - expected[i]);
    difference = Math.max(difference, Number.isFinite(distance) ? distance : Number.POSITIVE_INFINITY);
  });
  return difference === 0 ? 0 : difference / Math.max(...expected.filter(Number.isFinite).map(Math.abs));
}

/** The results of a function of leaves, and the leaves' gradients for random gradients of the results. */
export function withGradients(make: Source, shapes: readonly Shape[], fn: (...leaves: Tensor[]) => Tensor[]): Tensor[] {
  const leaves = shapes.map((shape) => make(shape));
  for (const leaf of leaves) leaf.requiresGrad = true;
  const outputs = fn(...leaves);
  backward(
    outputs,
    outputs.map(({ shape }) => make(shape)),
  );
  return [...outputs, ...leaves.map((leaf) => leaf.grad!)];
}
