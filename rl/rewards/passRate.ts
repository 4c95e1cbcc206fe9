import { randomUUID } from "node:crypto";
import type { Sandbox, SandboxLimits } from "./sandbox.js";

/** What the tests of a BigCodeBench task say about some code. */
export interface TestOutcome {
  /** 1 where all tests ran and passed, else 0: CollabLLM's `pass_rate`. */
  readonly passRate: 0 | 1;
  readonly passed: number;
  /** Tests that ran; 0 where the code or the tests could not be loaded. */
  readonly total: number;
  /** Why not all passed, if the harness came to say so. */
  readonly ending: "passed" | "failed" | "not loaded" | "ended early" | "timed out";
}

/**
 * Runs code with unit tests behind it in a sandbox. The verdict comes with a number that is new for each run, so that
 * code which ends the process or prints what it likes does not pass; code made to tamper with `unittest` itself still
 * could.
 * @param tests Python source with `unittest.TestCase` classes (BigCodeBench's `test`)
 * @throws where bubblewrap cannot be started.
 */
export async function runTests(
  sandbox: Sandbox,
  { code, tests, limits }: { readonly code: string; readonly tests: string; readonly limits?: SandboxLimits },
): Promise<TestOutcome> {
  const nonce = randomUUID();
  const { output, timedOut } = await sandbox.run(HARNESS, JSON.stringify({ code, tests, nonce }), limits);
  const verdict = new RegExp(`^${nonce} (-?\\d+) (\\d+)$`, "m").exec(output);
  if (!verdict) return { passRate: 0, passed: 0, total: 0, ending: timedOut ? "timed out" : "ended early" };
  const [passed, total] = verdict.slice(1).map(Number);
  if (passed < 0) return { passRate: 0, passed: 0, total: 0, ending: "not loaded" };
  const isAll = total > 0 && passed === total;
  return { passRate: isAll ? 1 : 0, passed, total, ending: isAll ? "passed" : "failed" };
}

/**
 * The Python code in a message: its last fenced block that is not said to be in another language, or the whole text
 * where there is none.
 */
export function codeOf(text: string): string {
  const blocks: { readonly language: string; readonly lines: string[] }[] = [];
  let fence: string | undefined;
  for (const line of text.split("\n")) {
    const [, mark, language] = /^\s*(`{3,}|~{3,})\s*([\w+-]*)/.exec(line) ?? [];
    if (fence === undefined && mark) blocks.push({ language, lines: [] });
    else if (fence !== undefined && mark !== fence) blocks.at(-1)!.lines.push(line);
    if (mark && (fence === undefined || mark === fence)) fence = fence === undefined ? mark : undefined;
  }
  const code = blocks.findLast(({ language }) => /^(py\w*|)$/i.test(language));
  return code ? code.lines.join("\n") : text;
}

/**
 * Standard output is set aside for the verdict before anything of the model's runs. The module is called `__test__`, as
 * in BigCodeBench's own harness, so that what stands under `if __name__ == "__main__"` does not run.
 */
const HARNESS = `
import json, os, sys, types
given = json.load(sys.stdin)
nonce = given.pop("nonce")
verdict = os.dup(1)
nothing = os.open(os.devnull, os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(nothing, fd)
import io, unittest
module = types.ModuleType("__test__")
module.__dict__["__builtins__"] = __builtins__
sys.modules["__test__"] = module
passed = total = 0
try:
    exec(compile(given["code"] + "\\n\\n" + given["tests"], "task.py", "exec"), module.__dict__)
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
except BaseException:
    passed = -1
else:
    result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
    total = result.testsRun
    bad = {id(test) for test, _ in result.failures + result.errors}
    passed = max(0, total - len(bad)) if result.wasSuccessful() else max(0, total - max(1, len(bad)))
    passed = min(passed, total - len(result.skipped) - len(result.unexpectedSuccesses))
os.write(verdict, f"{nonce} {passed} {total}\\n".encode())
os._exit(0)
`;
