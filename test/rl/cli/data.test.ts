import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import test from "ava";
import { readParquet } from "../../../data/parquet.js";
import { hubServer } from "../../data/hubServer.js";
import { fixture } from "../../support.js";
import { temporaryFolder } from "../../temporary.js";
import { start } from "./support.js";

const math = fixture("data", "collab-math.parquet");

test("data prepare writes four files and says what became of every row", async (t) => {
  const folder = temporaryFolder(t);
  const args = ["data", "prepare", "math-hard", "--input", math, "--held-out", "2", "--task-desc", "sums"];
  const { code, stdout, stderr } = await start(t, folder, args).ended;
  t.deepEqual([code, stderr], [0, ""]);
  t.is(
    stdout,
    `rows
  18  read from ${math}
   3  written to datasets/math-hard/rl_train.parquet
   2  written to datasets/math-hard/rl_validation.parquet
   4  written to datasets/math-hard/sft_train.parquet
   2  written to datasets/math-hard/sft_validation.parquet
   7  no task: repeats the opening of an earlier row
   4  no task: opens like another task (--keep-shared-openings keeps it)
   2  no task: has no reference answer
   8  no dialogue: a reply to the same turn scores at least as high
   2  no dialogue: its conversation goes on in another row
   2  no dialogue: has no completion
`,
  );
  const [{ extra_info }] = await readParquet(join(folder, "datasets/math-hard/rl_train.parquet"));
  t.like(extra_info, { interaction_kwargs: { task_desc: "sums" } });
});

test("mistakes are one line and exit code 2", async (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, "bad.jsonl"), '{"prompt": \n');
  for (const [args, message] of [
    [["math"], /^itpo: there is no dataset 'math'; choose math-hard/],
    [["mtmeddialog"], /^itpo: mtmeddialog is not on the Hub; get its files from .* and name them by --input/],
    [["medium", "--input", "bad.jsonl"], /^itpo: bad\.jsonl: line 1: is not JSON/],
    [["medium", "--input", math, "--held-out", "most"], /^itpo: --held-out is 'most'/],
    [["medium", "--input", math, "--held-out", "1.5"], /^itpo: cannot hold out 1\.5 of/],
    [["medium", "--input", math, "--seed", "-1"], /^itpo: --seed is '-1'/],
  ] as const) {
    const { code, stdout, stderr } = await start(t, folder, ["data", "prepare", ...args]).ended;
    t.deepEqual([code, stdout], [2, ""]);
    t.regex(stderr, message);
    t.is(stderr.trimEnd().split("\n").length, 1, stderr);
  }
});

test("a dataset is downloaded; killed in the middle it goes on from there, and the result is the same", async (t) => {
  const bytes = readFileSync(math);
  const files = { "README.md": Buffer.from("# data"), "data/train-00000-of-00001.parquet": bytes };
  const repo = "datasets/collabllm/collabllm-multiturn-math-hard";
  const large = ["data/train-00000-of-00001.parquet"];
  const folder = temporaryFolder(t);
  const args = ["data", "prepare", "math-hard", "--held-out", "2"];

  const slow = await hubServer(t, { repo, files, large, bytesPerTick: 16 });
  const first = start(t, folder, args, { HF_ENDPOINT: slow.url });
  const source = join(folder, "datasets/math-hard/source/data");
  const partSize = () => {
    const part = existsSync(source) ? readdirSync(source).find((name) => name.endsWith(".part")) : undefined;
    return part === undefined ? 0 : statSync(join(source, part)).size;
  };
  while (partSize() < 1000) await wait(5);
  first.child.kill("SIGKILL");
  t.is((await first.ended).code, null);
  const had = partSize();
  t.true(had >= 1000 && had < bytes.length);
  t.false(existsSync(join(folder, "datasets/math-hard/rl_train.parquet")));

  const { url, ranges } = await hubServer(t, { repo, files, large });
  const second = await start(t, folder, args, { HF_ENDPOINT: url }).ended;
  t.is(second.code, 0, second.stderr);
  t.deepEqual(ranges, [{ path: large[0], from: had, sent: bytes.length - had }], "the rest, and nothing else");
  t.regex(second.stderr, /^collabllm\/collabllm-multiturn-math-hard: 1 file, 13\.4 kB, checksums right, in datasets/);
  t.deepEqual(readdirSync(source), ["train-00000-of-00001.parquet"]);

  const direct = await start(t, folder, [...args, "--input", math, "--output", "direct"]).ended;
  t.is(direct.code, 0);
  for (const file of ["rl_train", "rl_validation", "sft_train", "sft_validation"].map((name) => `${name}.parquet`)) {
    t.deepEqual(
      readFileSync(join(folder, "datasets/math-hard", file)),
      readFileSync(join(folder, "direct", file)),
      file,
    );
  }
});

test("model download fetches what a model needs and nothing else, and refuses one that cannot be used before its weights", async (t) => {
  const model = fixture("tiny-qwen2");
  const read = (name: string) => readFileSync(join(model, name));
  const files = {
    ...Object.fromEntries(["config.json", "model.safetensors"].map((name) => [name, read(name)])),
    "tokenizer.json": Buffer.from("{}"),
    "README.md": Buffer.from("# tiny"),
    "pytorch_model.bin": Buffer.alloc(10),
    "onnx/model.json": Buffer.from("{}"),
  };
  const folder = temporaryFolder(t);
  const large = ["model.safetensors"];
  const { url } = await hubServer(t, { repo: "owner/tiny", files, large });
  const { code, stdout, stderr } = await start(t, folder, ["model", "download", "owner/tiny"], { HF_ENDPOINT: url })
    .ended;
  t.is(code, 0, stderr);
  t.is(stdout, "tiny is ready: --model tiny, or model.path=tiny in a configuration\n");
  t.deepEqual(readdirSync(join(folder, "tiny")), ["config.json", "model.safetensors", "tokenizer.json"]);
  t.deepEqual(readFileSync(join(folder, "tiny", "model.safetensors")), read("model.safetensors"));
  writeFileSync(join(folder, "in.json"), '{"sequences": [[1, 2, 3]]}');
  const scored = await start(t, folder, [
    "score",
    "--model",
    "tiny",
    "--input",
    "in.json",
    "--output",
    "out.json",
    "--device",
    "cpu",
  ]).ended;
  t.is(scored.code, 0, scored.stderr);

  const config = Buffer.from(JSON.stringify({ ...JSON.parse(read("config.json").toString()), model_type: "mamba" }));
  const other = await hubServer(t, { repo: "owner/mamba", files: { ...files, "config.json": config }, large });
  const refused = await start(t, folder, ["model", "download", "owner/mamba"], { HF_ENDPOINT: other.url }).ended;
  t.is(refused.code, 2);
  t.regex(refused.stderr, /^itpo: .*mamba.*\n$/);
  t.false(
    other.ranges.some(({ path }) => path === large[0]),
    "its weights were not asked for",
  );
});
