/**
 * The reference's gradients of every loss, through tensors: log-probs come from a language-model head, values from a
 * critic's, the loss's per-token weights go back through them, and what reaches the heads' inputs is compared.
 */
import test, { type ExecutionContext } from "ava";
import {
  Arena,
  type Backend,
  backward,
  createCpu,
  linear,
  linearLogprob,
  type Tensor,
  tensor,
} from "../../../lib/index.js";
import { cudaTest, openCuda } from "../../lib/backend/cuda/support.js";
import { type GoldenLoss, goldenDivergences, goldenLosses } from "./goldenLosses.js";

const WIDTH = 32;

/** f32 outputs of up to about 60, which the losses take exponentials of. */
const TOLERANCE = 3e-5;

/** A head whose outputs are a case's inputs. */
interface Head {
  /** Hidden states, [tokens, WIDTH]. */
  readonly states: readonly (readonly number[])[];
  /** How much lower than the case's inputs the outputs are. */
  readonly shift: number;
  /** [tokens, WIDTH] → [tokens] */
  readonly output: (hidden: Tensor) => Tensor;
  /** Derivatives of each token's output by its hidden state. */
  readonly derivatives: readonly (readonly number[])[];
}

const heads: Readonly<Record<GoldenLoss["output"], (inputs: readonly number[]) => Head>> = {
  /** The hidden states are the logits: the log-prob wanted at the target, the rest shared by the other words. */
  logprobs(inputs) {
    const shift = Math.max(...inputs, 0) + 0.1;
    const targets = inputs.map((_, n) => (7 * n) % WIDTH);
    const states = inputs.map((input, n) => {
      const rest = Math.log(-Math.expm1(input - shift) / (WIDTH - 1));
      return words.map((word) => (word === targets[n] ? input - shift : rest));
    });
    return {
      ...{ states, shift },
      output(hidden) {
        const { backend } = hidden;
        const identity = tensor(
          words.map((i) => words.map((j) => Number(i === j))),
          { backend },
        );
        return linearLogprob(hidden, identity, tensor(Int32Array.from(targets), { backend, dtype: "i32" })).logprobs;
      },
      derivatives: states.map((row, n) => row.map((logit, word) => Number(word === targets[n]) - Math.exp(logit))),
    };
  },

  /** A hidden state's first number is the value wanted; the head's other weights meet zeros. */
  values(inputs) {
    const weights = words.map((i) => (i === 0 ? 1 : (i % 5) - 2));
    return {
      states: inputs.map((value) => weights.map((_, i) => (i === 0 ? value : 0))),
      shift: 0,
      output: (hidden) => linear(hidden, tensor([weights], { backend: hidden.backend })).reshape([inputs.length]),
      derivatives: inputs.map(() => weights),
    };
  },
};

const words = Array.from({ length: WIDTH }, (_, i) => i);

/** What a loss comes to when its inputs are the outputs of a head on a device, and the gradient by the head's input. */
async function passThrough(backend: Backend, { inputs, loss, rows, output: name }: GoldenLoss, head: Head) {
  using arena = new Arena();
  const { hidden, output } = arena.run(() => {
    const hidden = tensor(head.states, { backend });
    hidden.requiresGrad = true;
    return { hidden, output: head.output(hidden) };
  });
  const flat = Array.from(await output.data());
  const table = inputs.map((row) => flat.splice(0, row.length));
  const { value, gradients } = loss.bind(rows(head.shift))(
    table.map((row) => ({ logprobs: row, values: row })),
    [...inputs.keys()],
  );
  const weights = gradients.flatMap((row) => [...row[name]!]);
  arena.run(() => backward([output], [tensor(weights, { backend })]));
  return { value, gradient: await hidden.grad!.data() };
}

/** Every golden loss on one device. */
async function compareAll(t: ExecutionContext, backend: Backend): Promise<void> {
  const all = [...goldenLosses, ...goldenDivergences];
  let numbers = 0;
  for (const golden of all) {
    const head = heads[golden.output](golden.inputs.flat());
    const { value, gradient } = await passThrough(backend, golden, head);
    const expected = golden.gradients.flat().flatMap((weight, n) => head.derivatives[n].map((each) => weight * each));
    const scale = Math.max(...expected.map(Math.abs));
    t.true(scale > 1e-4, `${golden.name}: gradients of at most ${scale}`);
    t.is(gradient.length, expected.length, golden.name);
    const worst = expected.reduce((most, number, i) => Math.max(most, Math.abs(number - gradient[i])), 0);
    t.true(worst <= TOLERANCE * scale, `${golden.name}: off by ${worst} at gradients of up to ${scale}`);
    t.true(Math.abs(value - golden.value) <= TOLERANCE * Math.max(1, Math.abs(golden.value)), golden.name);
    numbers += expected.length;
  }
  t.log(`${all.length} losses, ${numbers} numbers`);
}

test("the reference's gradients of every loss, through tensors on cpu", (t) => compareAll(t, createCpu()));

cudaTest("the reference's gradients of every loss, through tensors on cuda", async (t) => {
  await compareAll(t, await openCuda());
});
