import test, { type ExecutionContext } from "ava";
import type { Backend } from "../../../../lib/backend/backend.js";
import { cudaDeviceCount } from "../../../../lib/backend/cuda/device.js";
import type { CudaBackend } from "../../../../lib/backend/cuda/index.js";
import { findCudaLibrary } from "../../../../lib/backend/cuda/libraries.js";
import { createCpu, openDevice, type Shape, type Tensor, tensor } from "../../../../lib/index.js";
import { sizeOf } from "../../../../lib/shape.js";
import { normals } from "../../support.js";

/** Whether there is a GPU to test on. */
export const hasCuda = !("tried" in findCudaLibrary("cuda")) && deviceCount() > 0;

function deviceCount(): number {
  try {
    return cudaDeviceCount();
  } catch {
    return 0;
  }
}

/** A test that needs a GPU: reported as skipped where there is none. Such tests run one after another. */
export function cudaTest(title: string, implementation: (t: ExecutionContext) => void | Promise<void>): void {
  if (hasCuda) test.serial(title, implementation);
  else test.serial.skip(title, implementation);
}

/** Makes bf16 tensors of normal noise on the GPU; the same for the same numbers. */
export async function noiseMaker(key: number) {
  const backend = await openCuda();
  const noise = normals(key, 1_048_573);
  return (seed: number, shape: Shape, scale = 1): Tensor => {
    const data = Float32Array.from(
      { length: sizeOf(shape) },
      (_, i) => scale * noise[(seed * 7919 + i) % noise.length],
    );
    return tensor(data, { backend, dtype: "bf16", shape });
  };
}

let opened: Promise<CudaBackend> | undefined;

/** The GPU, opened once for a test file, with NaN in all memory that it hands out first. */
export function openCuda(): Promise<CudaBackend> {
  opened ??= openDevice("cuda").then((backend) => {
    const cuda = backend as CudaBackend;
    poison(cuda);
    return cuda;
  });
  return opened;
}

/**
 * Fills free device memory with NaN patterns: a kernel that reads what nobody wrote shows. Blocks of both heaps, as many
 * as a test is likely to get back.
 */
export function poison({ device }: CudaBackend): void {
  const sizes = [...new Array<number>(64).fill(256 * 1024), ...new Array<number>(8).fill(128 * 2 ** 20)];
  const blocks = sizes.map((bytes) => device.takeBytes(bytes, "poison"));
  for (const { address, bytes } of blocks) device.driver.memsetD8(address, 0xff, bytes, device.stream);
  for (const block of blocks) device.giveBytes(block);
}

/** What expected values are computed with. */
export const cpu: Backend = createCpu();

/** Where `actual` differs first from the start of `expected`, else −1: deepEqual takes minutes over millions of elements. */
export function firstDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  for (let i = 0; i < actual.length; i++) if (!Object.is(actual[i], expected[i])) return i;
  return -1;
}
