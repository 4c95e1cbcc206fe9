import test from "ava";
import { InputError, type ScheduleKind, type ScheduleOptions, schedule } from "../../../lib/index.js";

const table: [options: ScheduleOptions, factors: Record<number, number>][] = [
  [{}, { 1: 1, 1000: 1 }],
  [{ warmupSteps: 4 }, { 0: 0, 1: 0.25, 3: 0.75, 4: 1, 5: 1, 1000: 1 }],
  [
    { kind: "linear", totalSteps: 10 },
    { 0: 1, 1: 0.9, 5: 0.5, 10: 0, 11: 0 },
  ],
  [
    { kind: "linear", warmupSteps: 2, totalSteps: 10, final: 0.2 },
    { 1: 0.5, 2: 1, 6: 0.6, 10: 0.2, 99: 0.2 },
  ],
  [
    { kind: "cosine", totalSteps: 8 },
    { 0: 1, 2: (1 + Math.SQRT1_2) / 2, 4: 0.5, 8: 0 },
  ],
  [
    { kind: "cosine", warmupSteps: 5, totalSteps: 15, final: 0.1 },
    { 1: 0.2, 5: 1, 10: 0.55, 15: 0.1, 16: 0.1 },
  ],
];
for (const [options, factors] of table) {
  test(`schedule ${JSON.stringify(options)}`, (t) => {
    const factor = schedule(options);
    for (const [step, expected] of Object.entries(factors)) {
      t.true(Math.abs(factor(Number(step)) - expected) < 1e-12, `step ${step}: ${factor(Number(step))}`);
    }
  });
}

test("a schedule that could not work is refused", (t) => {
  t.throws(() => schedule({ kind: "linear" }), { instanceOf: InputError, message: /totalSteps/ });
  t.throws(() => schedule({ kind: "cosine", warmupSteps: 5, totalSteps: 5 }), { instanceOf: InputError });
  t.throws(() => schedule({ kind: "exponential" as ScheduleKind }), { instanceOf: InputError, message: /exponential/ });
});
