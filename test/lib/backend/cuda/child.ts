/*
 * What runtime.test.ts runs in processes of its own: `node child.js compute` prints results of kernels from several files,
 * `node child.js trap` launches one that traps and prints the error, `node child.js train cuda:1` prints the losses of a small
 * model that is trained there.
 */
import type { CudaBackend } from "../../../../lib/backend/cuda/index.js";
import { arena, openDevice, rmsNorm, swiglu, tensor } from "../../../../lib/index.js";
import { SmallRun } from "./training.js";

const [mode, device = "cuda"] = process.argv.slice(2);
const backend = (await openDevice(device)) as CudaBackend;

async function compute(): Promise<void> {
  const results = arena(() => {
    const x = tensor([1, 2, 3, 4, 5, 6, 7, 8], { backend, shape: [2, 4] });
    const weight = tensor([1, 1, 2, 2], { backend });
    return [x.add(1), x.sum(1), x.transpose(), rmsNorm(x, weight), swiglu(x), x.to("bf16"), x.max(0)].map((y) =>
      y.data(),
    );
  });
  const values = await Promise.all(results);
  process.stdout.write(`${JSON.stringify(values.map((value) => Array.from(value)))}\n`);
}

async function train(): Promise<void> {
  const run = new SmallRun(backend, {}, "bf16");
  const losses: number[] = [];
  for (let step = 0; step < 5; step++) {
    await run.step(step);
    losses.push(await run.loss(step));
  }
  process.stdout.write(`${JSON.stringify({ name: backend.name, losses })}\n`);
}

function trap(): void {
  const { device } = backend;
  const source = 'extern "C" __global__ void falls_over(float *x) { if (x != 0) asm volatile("trap;"); }';
  const kernel = device.kernels.generated("falls_over", "falls_over", "p", () => source);
  const x = tensor([1, 2, 3], { backend });
  x.add(1);
  device.synchronize();
  try {
    device.launch(kernel, [device.address(x)], { grid: [1], block: 32 });
    device.synchronize();
    process.stdout.write("no error\n");
  } catch (error) {
    process.stdout.write(`${(error as Error).message}\n`);
  }
}

if (mode === "trap") {
  trap();
  // The context is lost: nothing can be given back.
  process.exit(0);
}
await (mode === "train" ? train : compute)();
backend.close();
