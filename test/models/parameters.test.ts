import test from "ava";
import { createCpu } from "../../lib/index.js";
import {
  cloneParameters,
  countParameters,
  disposeParameters,
  initializeParameters,
  parameterSpecs,
} from "../../models/index.js";
import { tinyConfig, tinyModel, tinyQwen2, valuesOf } from "./tiny.js";

const wide = {
  ...tinyConfig,
  hiddenSize: 128,
  intermediateSize: 256,
  heads: 4,
  kvHeads: 2,
  headDim: 32,
  vocabSize: 400,
};
const backend = createCpu({ poison: true });

/** Mean and standard deviation. */
function moments(values: ArrayLike<number>): { mean: number; deviation: number } {
  const all = Array.from(values);
  const mean = all.reduce((a, b) => a + b, 0) / all.length;
  return { mean, deviation: Math.sqrt(all.reduce((sum, value) => sum + (value - mean) ** 2, 0) / all.length) };
}

test("fresh matrices are normal with the config's deviation, the embedding with its own, norms 1, biases 0", async (t) => {
  const config = { ...wide, initializerRange: 0.02, qkvBias: true };
  const parameters = initializeParameters(config, { backend, seed: 3, embeddingRange: 0.3 });
  for (const { name, start } of parameterSpecs(config)) {
    const values = await parameters.get(name)!.data();
    if (start !== "normal") {
      t.true(
        values.every((value) => value === (start === "ones" ? 1 : 0)),
        name,
      );
      continue;
    }
    const expected = name === "model.embed_tokens.weight" ? 0.3 : 0.02;
    const { mean, deviation } = moments(values);
    // Five standard errors of each.
    t.true(Math.abs(mean) < (5 * expected) / Math.sqrt(values.length), `mean of ${name}: ${mean}`);
    t.true(Math.abs(deviation / expected - 1) < 5 / Math.sqrt(2 * values.length), `deviation of ${name}: ${deviation}`);
    const tails = Array.from(values).filter((value) => Math.abs(value) > 2 * expected).length / values.length;
    t.true(Math.abs(tails - 0.0455) < 0.01, `two deviations of ${name}: ${tails}`);
  }
  t.true([...parameters.values()].every(({ requiresGrad }) => requiresGrad));
});

test("the seed decides the weights", async (t) => {
  const of = (seed: number) => valuesOf(initializeParameters(tinyConfig, { backend, seed }));
  t.deepEqual(await of(7), await of(7));
  const [seven, eight] = [await of(7), await of(8)];
  parameterSpecs(tinyConfig).forEach(({ name, start }, i) => {
    if (start === "normal") t.notDeepEqual(seven[i], eight[i], name);
  });
});

test("no two matrices start alike", async (t) => {
  const parameters = initializeParameters({ ...tinyConfig, tieWordEmbeddings: false }, { backend, seed: 1 });
  const starts = new Set<number>();
  for (const { name, start } of parameterSpecs(tinyConfig)) {
    if (start === "normal") starts.add((await parameters.get(name)!.data())[0]);
  }
  t.is(starts.size, parameterSpecs(tinyConfig).filter(({ start }) => start === "normal").length);
});

for (const config of [tinyConfig, tinyQwen2]) {
  test(`${config.architecture}: the parts of a parameter add up to it, and all to the model's size`, (t) => {
    const { vocabSize: v, hiddenSize: d, intermediateSize: f, layers, heads, kvHeads, headDim } = config;
    const specs = parameterSpecs(config);
    for (const { name, shape, parts } of specs) {
      t.is(
        parts.reduce((sum, { rows }) => sum + rows, 0),
        shape[0],
        name,
      );
    }
    const projections = 2 * heads * headDim * d + 2 * kvHeads * headDim * d;
    const extra = config.qkNorm ? 2 * headDim : (heads + 2 * kvHeads) * headDim;
    const matrices = (config.tieWordEmbeddings ? 1 : 2) * v * d;
    const expected = matrices + d + layers * (projections + extra + 3 * d * f + 2 * d);
    t.is(countParameters(tinyModel({ config }).parameters), expected);
  });
}

test("a clone has storage of its own, and is frozen only on request", async (t) => {
  const { parameters } = tinyModel();
  const copy = cloneParameters(parameters);
  const frozen = cloneParameters(parameters, { frozen: true });
  const before = await valuesOf(parameters);
  t.deepEqual(await valuesOf(copy), before);
  for (const [name, parameter] of copy) {
    t.not(parameter.storage, parameters.get(name)!.storage, name);
    parameter.assign(parameter.mul(0));
  }
  t.deepEqual(await valuesOf(parameters), before);
  t.deepEqual(await valuesOf(frozen), before);
  t.true([...copy.values()].every(({ requiresGrad }) => requiresGrad));
  t.false([...frozen.values()].some(({ requiresGrad }) => requiresGrad));
});

test("disposeParameters gives back all that initializeParameters and cloneParameters took", (t) => {
  const own = createCpu({ poison: true });
  const parameters = initializeParameters(tinyConfig, { backend: own, seed: 1 });
  const size = own.memory().bytes;
  const copy = cloneParameters(parameters);
  t.is(own.memory().bytes, 2 * size);
  disposeParameters(parameters);
  disposeParameters(copy);
  t.is(own.memory().bytes, 0);
});
