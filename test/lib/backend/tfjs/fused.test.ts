import test from "ava";
import type { Backend, HeadLayout } from "../../../../lib/backend/backend.js";
import {
  AdamW,
  arena,
  attention,
  concat,
  embedding,
  keep,
  linear,
  linearLogprob,
  noGrad,
  pagedAttention,
  qkNorm,
  rmsNorm,
  rope,
  type Shape,
  swiglu,
  type Tensor,
} from "../../../../lib/index.js";
import { agrees, cpu, devices, drawn, gap, held, withGradients } from "./devices.js";

const layout: HeadLayout = { heads: 4, kvHeads: 2, headDim: 6 };
const width = (layout.heads + 2 * layout.kvHeads) * layout.headDim;
const offsets = Int32Array.of(0, 3, 3, 4, 11);
const tokens = 11;
const paged = {
  offsets: Int32Array.of(0, 1, 3, 3, 6),
  lengths: Int32Array.of(4, 2, 0, 7),
  pages: [[2, 0], [5], [], [1, 4, 3]],
  pageSize: 3,
};

agrees(
  "fused operations and their gradients",
  {
    rmsNorm: (make) => withGradients(make, [[5, 8], [8]], (x, weight) => [rmsNorm(x, weight)]),
    qkNorm: (make) => withGradients(make, [[tokens, width], [6], [6]], (x, q, k) => [qkNorm(x, q, k, layout)]),
    rope: (make) =>
      withGradients(make, [[4, width]], (x) => [rope(x, make([4], [0, 3, 1, 70], "i32"), { ...layout, theta: 1000 })]),
    swiglu: (make) => withGradients(make, [[5, 12]], (x) => [swiglu(x)]),
    attention: (make) => withGradients(make, [[tokens, width]], (x) => [attention(x, offsets, layout)]),
    pagedAttention: (make) => pagedAttention(make([6, width]), make([18, 24]), paged, layout),
    linearLogprob: (make) =>
      withGradients(
        make,
        [
          [5, 8],
          [13, 8],
        ],
        (hidden, weight) => {
          const { logprobs, entropy } = linearLogprob(hidden, weight, make([5], [0, 12, 3, 3, 7], "i32"), 0.7);
          return [logprobs, entropy];
        },
      ),
    "linearLogprob of a large vocabulary": (make) =>
      withGradients(
        make,
        [
          [40, 64],
          [300, 64],
        ],
        (hidden, weight) => {
          const { logprobs, entropy } = linearLogprob(hidden, weight, make([40], new Int32Array(40).fill(299), "i32"));
          return [logprobs, entropy];
        },
      ),
    embedding: (make) => withGradients(make, [[6, 4]], (weight) => [embedding(weight, make([3], [5, 0, 5], "i32"), 0)]),
  },
  2e-5,
);

agrees(
  "attention over a sequence long enough for the engine's product",
  {
    attention: (make) => withGradients(make, [[200, width]], (x) => [attention(x, Int32Array.of(0, 170, 200), layout)]),
  },
  2e-5,
  devices.slice(0, 1),
);

/**
 * A network with every part of a language model, from one seed: its last loss and gradient and its weights after so many
 * steps of AdamW, and what was held at the end of each.
 */
function train(backend: Backend, steps: number) {
  const make = drawn(backend);
  const shapes: Record<string, Shape> = {
    embed: [20, 12],
    norm: [12],
    qkv: [width, 12],
    bias: [width],
    out: [12, 24],
    gateUp: [32, 12],
    down: [12, 16],
  };
  const parameters = new Map(Object.entries(shapes).map(([name, shape]) => [name, keep(make(shape))]));
  for (const parameter of parameters.values()) parameter.requiresGrad = true;
  const at = (name: string) => parameters.get(name)!;
  const ids = Int32Array.from({ length: tokens }, (_, i) => (i * 7) % 20);
  const footprints = new Set<string>();
  const optimizer = new AdamW(parameters, { lr: 0.01 });
  let loss: Tensor | undefined;
  let gradient: Tensor | undefined;
  for (let step = 0; step < steps; step++) {
    optimizer.zeroGrad();
    loss?.dispose();
    gradient?.dispose();
    loss = keep(
      arena(() => {
        const input = embedding(at("embed"), make([tokens], ids, "i32"));
        const qkv = linear(rmsNorm(input, at("norm")), at("qkv"), { bias: at("bias") });
        const turned = rope(qkv, make([tokens], ids, "i32"), { ...layout, theta: 100 });
        const x = input.add(linear(attention(turned, offsets, layout), at("out")));
        const hidden = x.add(linear(swiglu(linear(rmsNorm(x, at("norm")), at("gateUp"))), at("down")));
        const { logprobs, entropy } = linearLogprob(hidden, at("embed"), make([tokens], ids.toReversed(), "i32"));
        const loss = logprobs.add(entropy.mul(0.1)).mean().neg();
        loss.backward();
        return loss.detach();
      }),
    );
    gradient = keep(
      noGrad(() =>
        arena(() =>
          concat(
            [...parameters.values()].map(({ grad }) => grad!.reshape([-1])),
            0,
          ),
        ),
      ),
    );
    optimizer.step();
    footprints.add(JSON.stringify(held()));
  }
  optimizer.zeroGrad();
  optimizer.dispose();
  return { loss: loss!, gradient: gradient!, parameters, footprints };
}

for (const [name, backend] of devices) {
  test.serial(`training, ${name}: gradients, loss and weights after five steps are the cpu backend's`, async (t) => {
    const before = held();
    for (const steps of [1, 5]) {
      const [expected, actual] = [train(cpu, steps), train(backend, steps)];
      const compare = async (label: string, tolerance: number, pick: (run: typeof actual) => Tensor) => {
        const [a, b] = [Array.from(await pick(actual).data()), Array.from(await pick(expected).data())];
        t.true(gap(a, b) < tolerance, `${label} after ${steps}: ${gap(a, b)}`);
      };
      t.is(actual.footprints.size, 1);
      await compare("gradient", steps === 1 ? 1e-5 : 1e-4, ({ gradient }) => gradient);
      await compare("loss", 1e-5, ({ loss }) => loss);
      for (const key of actual.parameters.keys()) await compare(key, 1e-4, ({ parameters }) => parameters.get(key)!);
      for (const run of [expected, actual]) {
        for (const tensor of [run.loss, run.gradient, ...run.parameters.values()]) tensor.dispose();
      }
    }
    t.deepEqual(held(), before);
  });
}
