import test from "ava";
import { chatCommand } from "../../../rl/cli/chat.js";
import { temporaryFolder } from "../../temporary.js";
import { saveBabbler, until } from "../serve/support.js";
import { start } from "./support.js";

const chat = ["chat", "--model", "model", "--device", "cpu"];

test("piped messages are answered one after another, the same each time with a seed", async (t) => {
  const folder = temporaryFolder(t);
  await saveBabbler(`${folder}/model`);
  const args = [...chat, "--system", "be brief", "--max-tokens", "8", "--temperature", "0.8", "--seed", "4"];
  const runs = ["hello\n\nand then\n", "hello\nand then"].map((text) => {
    const running = start(t, folder, args);
    running.child.stdin!.end(text);
    return running.ended;
  });
  const [one, two] = await Promise.all(runs);
  t.is(one.code, 0, one.stderr);
  t.true(one.stdout.length > 4);
  t.true(one.stdout.endsWith("\n"));
  t.is(one.stdout, two.stdout);
});

test("/exit ends it though more is piped in; /clear begins anew", async (t) => {
  const folder = temporaryFolder(t);
  await saveBabbler(`${folder}/model`);
  const running = start(t, folder, [...chat, "--max-tokens", "6", "--temperature", "0"]);
  running.child.stdin!.write("hello\n/clear\nhello\n/exit\nhello\n");
  const { code, stdout } = await running.ended;
  t.is(code, 0);
  const half = stdout.length / 2;
  t.is(stdout.slice(0, half), stdout.slice(half));
});

test("Ctrl-C ends the answer, which stays; a second one, with nothing to end, ends the program", async (t) => {
  const folder = temporaryFolder(t);
  await saveBabbler(`${folder}/model`, { maxPositions: 60000 });
  const running = start(t, folder, [...chat, "--max-tokens", "50000", "--context", "60000", "--temperature", "0"]);
  running.child.stdin!.write("hello\n");
  await until(() => running.stdout().length > 20, "an answer");
  running.child.kill("SIGINT");
  await until(() => running.stdout().endsWith("\n"), "the end of the answer");
  running.child.stdin!.write("hello\n");
  const length = running.stdout().length;
  await until(() => running.stdout().length > length + 20, "another answer");
  running.child.kill("SIGINT");
  await until(() => running.stdout().endsWith("\n"), "the end of the answer");
  running.child.kill("SIGINT");
  const { code, stderr } = await running.ended;
  t.deepEqual([code, stderr], [0, ""]);
});

test("a reader that closes the pipe ends it without an error", async (t) => {
  const folder = temporaryFolder(t);
  await saveBabbler(`${folder}/model`, { maxPositions: 60000 });
  const running = start(t, folder, [...chat, "--max-tokens", "50000", "--context", "60000", "--temperature", "0"]);
  running.child.stdin!.write("hello\n");
  await until(() => running.stdout().length > 20, "an answer");
  running.child.stdout!.destroy();
  t.is((await running.ended).code, 0);
});

const given = { model: "nowhere", device: "cpu", dtype: "f32", temperature: "1", maxTokens: "8" };
const mistakes: Record<string, readonly [options: Partial<Parameters<typeof chatCommand>[0]>, message: RegExp]> = {
  "a temperature in words": [{ temperature: "hot" }, /--temperature is 'hot'; give a number of at least 0/],
  "top-p above 1": [{ topP: "1.5" }, /--top-p is '1.5'; give a number from 0.000001 to 1/],
  "half a token": [{ maxTokens: "0.5" }, /--max-tokens is '0.5'; give a whole number of at least 1/],
  "a seed below 0": [{ seed: "-1" }, /--seed is '-1'; give a whole number of at least 0/],
  "a folder that is not there": [{}, /nowhere: no such folder/],
};
for (const [what, [options, message]] of Object.entries(mistakes)) {
  test(`${what}: a mistake in what was given`, async (t) => {
    await t.throwsAsync(chatCommand({ ...given, ...options }), { name: "InputError", message });
  });
}
