import test from "ava";
import { CallError } from "../../../rl/llm/callError.js";
import { pauseBefore, retrying } from "../../../rl/llm/retry.js";

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

test("limits beyond what a timer takes are no limits, and never pass at once", async (t) => {
  const limits = { timeout: 1e9, deadline: 1e300, retries: 0 };
  t.is(
    await retrying((_, timed) => timed(() => new Promise((done) => setTimeout(done, 20, "reply"))), limits),
    "reply",
  );
});

test("a server that wants to be asked again in ages is not asked at once", async (t) => {
  let attempts = 0;
  const attempt = () => {
    attempts++;
    return Promise.reject(new CallError("rate_limit", "HTTP 429", 1e10));
  };
  const asked = retrying(attempt, { timeout: 1, deadline: 0.1, retries: 9 });
  await t.throwsAsync(asked, { instanceOf: CallError, message: /within 0.1 s; the last attempt: HTTP 429/ });
  t.is(attempts, 1);
});
