import test from "ava";
import { fastExp } from "../../lib/exp.js";
import { randomStream } from "../../lib/index.js";

test("fastExp is e^x within 8e-12, relative, over its whole range", (t) => {
  const random = randomStream(1);
  let worst = 0;
  for (let i = 0; i < 200_000; i++) {
    const x = i % 2 === 0 ? 1417 * random.uniform() - 708 : 4 * random.normal();
    worst = Math.max(worst, Math.abs(fastExp(x) / Math.exp(x) - 1));
  }
  t.true(worst < 8e-12, `${worst}`);
});

test("fastExp around the points of its table: exact on them, within 8e-12 beside them", (t) => {
  for (let i = -64 * 708; i <= 64 * 709; i++) {
    const x = i / 64;
    if (fastExp(x) !== Math.exp(x)) t.fail(`${x}`);
    for (const beside of [x - 1e-9, x + 1e-9, x + 1 / 128]) {
      if (Math.abs(fastExp(beside) / Math.exp(beside) - 1) > 8e-12) t.fail(`${beside}`);
    }
  }
  t.pass();
});

test("fastExp at the ends: 1 at 0, infinity and 0 where e^x leaves the doubles, NaN for NaN", (t) => {
  t.is(fastExp(0), 1);
  t.is(fastExp(-0), 1);
  t.is(fastExp(710), Number.POSITIVE_INFINITY);
  t.is(fastExp(1e300), Number.POSITIVE_INFINITY);
  t.is(fastExp(Number.POSITIVE_INFINITY), Number.POSITIVE_INFINITY);
  t.is(fastExp(-746), 0);
  t.is(fastExp(-1e30), 0);
  t.is(fastExp(Number.NEGATIVE_INFINITY), 0);
  t.is(fastExp(Number.NaN), Number.NaN);
  t.true(Math.abs(fastExp(709.78) / Math.exp(709.78) - 1) < 8e-12);
  t.true(fastExp(-740) > 0 && Math.abs(fastExp(-740) - Math.exp(-740)) <= 5e-324);
});
