import pLimit from "p-limit";
import { codeOf, runTests } from "./passRate.js";
import type { Reward, Target } from "./reward.js";
import type { Sandbox } from "./sandbox.js";

/** Sandboxes at once: each is a Python process that imports what the tests need. */
const AT_ONCE = 8;

/** The unit tests that a task brings, if it does. */
export function testsOf(info: Target["info"]): string | undefined {
  const tests = (info?.single_turn_metadata as { test?: unknown } | null | undefined)?.test;
  return typeof tests === "string" ? tests : undefined;
}

/**
 * `pass_rate`: 1 where the code in the assistant's last message passes the task's own tests, else 0. The tests are
 * `single_turn_metadata.test` of the source, as in BigCodeBench.
 */
export function codeReward(sandbox: Sandbox | undefined): Reward {
  const limit = pLimit(AT_ONCE);
  return {
    metrics: ["pass_rate"],
    isJudged: false,
    async score(conversation, { info }) {
      const tests = testsOf(info);
      if (tests === undefined) throw new Error("the task has no single_turn_metadata.test to run");
      if (!sandbox) throw new Error("pass_rate needs a sandbox; set environment.allowCodeExecution=true");
      const code = codeOf(conversation.findLast(({ role }) => role === "assistant")?.content ?? "");
      return { pass_rate: (await limit(() => runTests(sandbox, { code, tests }))).passRate };
    },
  };
}
