import test from "ava";
import fc from "fast-check";
import type { Message } from "../../../models/message.js";
import { leakOf } from "../../../rl/rewards/leak.js";

const user = (content: string): Message => ({ role: "user", content });
const assistant = (content: string): Message => ({ role: "assistant", content });
const article = "Remote work began as an exception and then, within one spring, it became the rule for most of us.";

test("a user who copies eight words of the hidden text in a row leaks; who speaks of it does not", (t) => {
  const opening = [user("Help me write about remote work.")];
  const leak = (...rest: Message[]) => leakOf([...opening, ...rest], article, { openingLength: 1 });
  t.deepEqual(leak(assistant("What tone?"), user("Say that remote work became the rule for most of us.")), {
    share: 0,
    longestRun: 0,
    message: undefined,
  });
  const copy = user("Like: 'remote work BEGAN as an exception, and then within one spring…'");
  t.deepEqual(leak(assistant("What tone?"), copy, assistant("?"), copy), {
    share: 11 / 19,
    longestRun: 11,
    message: 2,
  });
  t.is(leak(user(article)).share, 1);
});

test("what the opening, an allowed text or the assistant said before is no secret", (t) => {
  const options = { openingLength: 1 };
  t.is(leakOf([user(article), user(article)], article, options).share, 0);
  t.is(leakOf([user("Hi"), assistant(article), user(article)], article, options).share, 0);
  t.is(
    leakOf([user("Hi"), user(article), assistant(article)], article, options).share,
    1,
    "but what it says afterwards is",
  );
  t.is(leakOf([user("Hi"), user(article)], article, { ...options, allowed: [`As asked: ${article}`] }).share, 0);
});

test("of a short hidden text all the words leak, or none", (t) => {
  const leak = (text: string) => leakOf([user("Hi"), user(text)], "\\boxed{3 \\sqrt{2}}", { openingLength: 1 });
  t.is(leak("Is it boxed 3 sqrt 2?").longestRun, 4);
  t.is(leak("Is it 3?").share, 0);
  t.deepEqual(leakOf([user("Hi"), user("!")], "…", { openingLength: 1 }), { share: 0, longestRun: 0 });
});

test("share is in [0, 1], and 1 for a user who tells all", (t) => {
  const words = fc.array(fc.constantFrom("a", "b", "c", "喉", "1"), { minLength: 1, maxLength: 30 });
  fc.assert(
    fc.property(words, words, fc.integer({ min: 1, max: 9 }), (hidden, said, run) => {
      const { share, longestRun } = leakOf([user(said.join(" "))], hidden.join(" "), { openingLength: 0, run });
      t.true(share >= 0 && share <= 1 && longestRun <= hidden.length && share > 0 === longestRun > 0);
      t.is(
        leakOf([user(`${hidden.join(" ")} ${said.join(" ")}`)], hidden.join(" "), { openingLength: 0, run }).share,
        1,
      );
    }),
  );
});
