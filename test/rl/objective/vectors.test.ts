/** The reference's golden numbers and the specification's test vectors: one case a line, each within its tolerance. */
import test from "ava";
import { goldenVectors } from "./goldenVectors.js";
import { specVectors } from "./specVectors.js";
import { near } from "./support.js";
import type { Vector } from "./vectors.js";

const tables: Readonly<Record<string, readonly [vectors: readonly Vector[], cases: number]>> = {
  "golden cases of the reference": [goldenVectors, 83],
  "test vectors of the specification": [specVectors, 46],
};

for (const [what, [vectors, cases]] of Object.entries(tables)) {
  test(`all ${what}`, (t) => {
    const numbers = vectors.map(({ name, actual, expected, tolerance }) =>
      near(t, actual(), expected, tolerance, name),
    );
    t.is(vectors.length, cases);
    t.is(new Set(vectors.map(({ name }) => name)).size, cases);
    t.log(`${cases} cases, ${numbers.reduce((a, b) => a + b, 0)} numbers`);
  });
}
