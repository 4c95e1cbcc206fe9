import test from "ava";
import { pauseBefore } from "../../../rl/llm/retry.js";

test("pauses begin at half a second at most, double, are spread by chance, and heed the server", (t) => {
  const pauses = (random: number) => [0, 1, 2, 3].map((retry) => pauseBefore(retry, 0.5, 0, () => random));
  t.deepEqual(pauses(1), [0.5, 1, 2, 4]);
  t.deepEqual(pauses(0), [0.25, 0.5, 1, 2]);
  t.is(
    pauseBefore(30, 0.5, 0, () => 1),
    30,
  );
  t.is(pauseBefore(0, 0.5, 7), 7);
});
