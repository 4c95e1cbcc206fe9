import { spawnSync } from "node:child_process";
import test from "ava";
import fc from "fast-check";
import { InputError } from "../../../lib/errors.js";
import { codeOf, runTests } from "../../../rl/rewards/passRate.js";
import { openSandbox, type Sandbox, type SandboxLimits } from "../../../rl/rewards/sandbox.js";

test("codeOf: the last Python block, or the whole text", (t) => {
  for (const [text, code] of [
    ["```python\na = 1\n```\nor\n```py\na = 2\n```\n```bash\nls\n```", "a = 2"],
    ["Here:\n```\na = 1\n\nb = 2\n```", "a = 1\n\nb = 2"],
    ["~~~~Python\na = '''\n```\n'''\n~~~~", "a = '''\n```\n'''"],
    ["```python\ncut off", "cut off"],
    ["```js\nlet a\n```", "```js\nlet a\n```"],
    ["a = 1", "a = 1"],
    ["", ""],
  ] as const) {
    t.is(codeOf(text), code, text);
  }
  const line = fc.constantFrom("```", "~~~", "```python", "````", "x", "");
  fc.assert(fc.property(fc.array(line), (lines) => typeof codeOf(lines.join("\n")) === "string"));
});

test("nothing runs that was not allowed, and a missing interpreter or bubblewrap is said", async (t) => {
  await t.throwsAsync(openSandbox({ allowCodeExecution: false }), {
    instanceOf: InputError,
    message: /--allow-code-execution/,
  });
  const path = process.env.PATH;
  process.env.PATH = "/nowhere";
  try {
    await t.throwsAsync(openSandbox({ allowCodeExecution: true }), {
      instanceOf: InputError,
      message: /needs bubblewrap: apt install bubblewrap/,
    });
  } finally {
    process.env.PATH = path;
  }
});

const hasBubblewrap = spawnSync("bwrap", ["--version"]).status === 0;
const inSandbox = hasBubblewrap ? test : test.skip;

/** Two tests of a function that squares. */
const tests = `
import unittest
class TestCases(unittest.TestCase):
    def test_two(self):
        self.assertEqual(task_func(2), 4)
    def test_three(self):
        self.assertEqual(task_func(3), 9)
`;

let sandbox: Sandbox;
const outcome = async (code: string, limits?: SandboxLimits) => {
  sandbox ??= await openSandbox({ allowCodeExecution: true });
  return runTests(sandbox, { code, tests, limits });
};
const square = "def task_func(x):\n    return x * x\n";

inSandbox("code passes where all tests pass", async (t) => {
  t.deepEqual(await outcome(square), { passRate: 1, passed: 2, total: 2, ending: "passed" });
  t.deepEqual(await outcome(`${square}if __name__ == "__main__":\n    raise SystemExit`), {
    ...{ passRate: 1, passed: 2, total: 2, ending: "passed" },
  });
  t.deepEqual(await outcome("def task_func(x): return x + 2"), { passRate: 0, passed: 1, total: 2, ending: "failed" });
  t.like(await outcome("def task_func(x) return"), { passRate: 0, ending: "not loaded" });
  const none = await runTests(sandbox, { code: square, tests: "import unittest" });
  t.deepEqual(none, { passRate: 0, passed: 0, total: 0, ending: "failed" }, "no test is no success");
});

inSandbox("code that ends early or says itself that it passed does not pass", async (t) => {
  for (const code of ["import os\nos._exit(0)", "import sys\nsys.exit(0)", "print('2 2')\nimport os\nos._exit(0)"]) {
    t.like(await outcome(code), { passRate: 0, total: 0 }, code);
  }
});

inSandbox("time, memory, files and processes are bounded", async (t) => {
  t.like(await outcome("while True: pass", { seconds: 1 }), { passRate: 0, ending: "timed out" });
  const inTest = (...lines: string[]) => `def task_func(x):\n    ${lines.join("\n    ")}\n    return x * x\n`;
  for (const code of [
    inTest("a = bytearray(4 * 2**30)"),
    inTest("open('/tmp/a', 'wb').write(b'0' * 2**27)"),
    inTest("for i in range(9): open(f'/tmp/{i}', 'wb').write(b'0' * 2**23)"),
    inTest("import resource", "resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))"),
  ]) {
    t.like(await outcome(code), { passed: 0, total: 2, ending: "failed" }, code);
  }
  const forks = ["import os, time", "n = 0", "try:", "  while n < 500:", "    if os.fork() == 0: time.sleep(60)"];
  const counted = inTest(...forks, "    n += 1", "except OSError: pass", "assert n < 64, n");
  t.like(await outcome(counted), { passRate: 1 }, "OSError before the 64th process");
});

inSandbox(
  "there is no network, no file of this machine, no environment, and nothing to write to but /tmp",
  async (t) => {
    process.env.ITPO_TEST_SECRET = "secret";
    const code = `
import os, socket
def task_func(x):
    assert "ITPO_TEST_SECRET" not in os.environ
    for path in ("/home", "/root/.ssh", "/etc/passwd", "/var", ${JSON.stringify(process.cwd())}):
        assert not os.path.exists(path), path
    try:
        open("/usr/a", "w")
        raise AssertionError("written")
    except OSError: pass
    try:
        socket.create_connection(("127.0.0.1", 1), 1).close()
        raise AssertionError("connected")
    except OSError: pass
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert len([name for name in os.listdir("/proc") if name.isdigit()]) < 5
    open("/tmp/a", "w").write("a")
    return x * x
`;
    t.like(await outcome(code), { passRate: 1 });
    delete process.env.ITPO_TEST_SECRET;
  },
);
