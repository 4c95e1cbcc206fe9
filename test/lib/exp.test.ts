import test from "ava";
import { fastExp } from "../../lib/exp.js";
import { randomStream } from "../../lib/index.js";

test("fastExp is e^x within 4e-15, relative, over its whole range", (t) => {
  const random = randomStream(1);
  let worst = 0;
  for (let i = 0; i < 200_000; i++) {
    const x = i % 2 === 0 ? 1417 * random.uniform() - 708 : 4 * random.normal();
    worst = Math.max(worst, Math.abs(fastExp(x) / Math.exp(x) - 1));
  }
  t.true(worst < 4e-15, `${worst}`);
});

test("fastExp at the ends: 1 at 0, infinity and 0 where e^x leaves the doubles, NaN for NaN", (t) => {
  t.is(fastExp(0), 1);
  t.is(fastExp(-0), 1);
  t.is(fastExp(710), Number.POSITIVE_INFINITY);
  t.is(fastExp(Number.POSITIVE_INFINITY), Number.POSITIVE_INFINITY);
  t.is(fastExp(-746), 0);
  t.is(fastExp(-1e30), 0);
  t.is(fastExp(Number.NEGATIVE_INFINITY), 0);
  t.is(fastExp(Number.NaN), Number.NaN);
  t.true(Math.abs(fastExp(709.78) / Math.exp(709.78) - 1) < 1e-14);
  t.true(fastExp(-740) > 0 && Math.abs(fastExp(-740) - Math.exp(-740)) <= 5e-324);
});
