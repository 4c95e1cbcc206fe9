import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { generateCommand } from "../../../rl/cli/generate.js";
import { temporaryFolder } from "../../temporary.js";
import { saveBabbler, until } from "../serve/support.js";
import { start } from "./support.js";

const batch = ["generate", "--model", "model", "--device", "cpu", "--input", "in.jsonl", "--output", "out.jsonl"];

test("lines of a file are answered into another; a bad one is named, and the exit code is 1", async (t) => {
  const folder = temporaryFolder(t);
  await saveBabbler(join(folder, "model"));
  writeFileSync(
    join(folder, "in.jsonl"),
    '{"prompt": "a"}\n{"prompt": }\n{"messages": [{"role":"user","content":"b"}]}\n',
  );
  const { code, stdout, stderr } = await start(t, folder, [...batch, "--max-tokens", "4"]).ended;
  t.deepEqual([code, stdout], [1, ""]);
  t.regex(stderr, /itpo: 1 of 3 lines failed; out\.jsonl says why\n$/);
  const records = readFileSync(join(folder, "out.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  t.deepEqual(
    records.map((record) => [record.line, "error" in record]),
    [
      [1, false],
      [2, true],
      [3, false],
    ],
  );
});

test("a process that is killed leaves whole lines, and resume does the rest", async (t) => {
  const folder = temporaryFolder(t);
  await saveBabbler(join(folder, "model"));
  const lines = Array.from({ length: 150 }, (_, id) => JSON.stringify({ id, prompt: "a", max_tokens: 60 }));
  writeFileSync(join(folder, "in.jsonl"), lines.join("\n"));
  const output = join(folder, "out.jsonl");
  const running = start(t, folder, [...batch, "--max-batch", "8"]);
  await until(() => existsSync(output) && readFileSync(output).length > 1000, "some output");
  running.child.kill("SIGKILL");
  await running.ended;
  const before = readFileSync(output, "utf8");
  t.true(before.endsWith("\n"));
  t.true(before.split("\n").length < 150);
  const { code } = await start(t, folder, [...batch, "--max-batch", "64", "--resume"]).ended;
  t.is(code, 0);
  const text = readFileSync(output, "utf8");
  t.true(text.startsWith(before));
  t.deepEqual(
    text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line).id),
    lines.map((_, id) => id),
  );
});

const given = { model: "nowhere", device: "cpu", dtype: "f32", maxBatch: "4", temperature: "1", seed: "0" };
const mistakes: Record<string, readonly [options: Partial<Parameters<typeof generateCommand>[0]>, message: RegExp]> = {
  "input without output": [{ input: "in.jsonl" }, /give --input and --output together/],
  "input and prompt": [{ input: "a", output: "b", prompt: "c" }, /give one of --prompt, --message and --input/],
  "an input that is not there": [{ input: "nothing.jsonl", output: "b" }, /nothing\.jsonl: cannot be read/],
  "an input that is a folder": [{ input: ".", output: "b" }, /\.: is no file/],
  "resume of one prompt": [{ prompt: "a", resume: true }, /--resume is for --input and --output/],
  "a system message for all lines": [{ input: "a", output: "b", system: "c" }, /--system is for --message/],
  "a system message for a prompt": [{ prompt: "a", system: "b" }, /--system is for --message; leave it out/],
};
for (const [what, [options, message]] of Object.entries(mistakes)) {
  test(`${what}: a mistake in what was given`, async (t) => {
    await t.throwsAsync(generateCommand({ ...given, ...options }), { name: "InputError", message });
  });
}
