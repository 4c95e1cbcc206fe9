import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tableFromIPC } from "apache-arrow";
import test, { type ExecutionContext } from "ava";
import fc from "fast-check";
import { readParquet as readWasm } from "parquet-wasm";
import { COLLABORATIVE_SYSTEM_PROMPT } from "../../data/collabllm.js";
import { DATASETS } from "../../data/datasets.js";
import { MEDICAL_SYSTEM_PROMPT } from "../../data/doctorTurn.js";
import { type Row, readParquet } from "../../data/parquet.js";
import { parquetColumns } from "../../data/parquetWriter.js";
import { type PrepareOptions, prepare } from "../../data/prepare.js";
import { readTasks } from "../../data/tasks.js";
import { InputError } from "../../lib/errors.js";
import type { Message } from "../../models/message.js";
import { fixture, root } from "../support.js";
import { temporaryFolder } from "../temporary.js";

const FILES = ["rl_train", "rl_validation", "sft_train", "sft_validation"] as const;
type Prepared = Record<(typeof FILES)[number], Row[]> & { report: Awaited<ReturnType<typeof prepare>>; output: string };

async function prepared(t: ExecutionContext, name: string, options: Omit<PrepareOptions, "output">): Promise<Prepared> {
  const output = temporaryFolder(t);
  const report = await prepare(name, { ...options, output });
  const rows = await Promise.all(FILES.map((file) => readParquet(join(output, `${file}.parquet`))));
  return {
    ...(Object.fromEntries(FILES.map((file, i) => [file, rows[i]])) as Record<(typeof FILES)[number], Row[]>),
    report,
    output,
  };
}

const math = { input: fixture("data", "collab-math.parquet"), heldOut: 0.3 };
const sum = (counts: Readonly<Record<string, number>>) => Object.values(counts).reduce((total, n) => total + n, 0);
const openingOf = ({ prompt }: Row) => (prompt as Message[])[1].content;
const kwargsOf = ({ extra_info }: Row) =>
  (extra_info as { interaction_kwargs: Record<string, string> }).interaction_kwargs;

test("a task is the system message and the opening, with all else in the reference's columns", async (t) => {
  const { rl_train, rl_validation, output } = await prepared(t, "math-hard", math);
  const row = [...rl_train, ...rl_validation].find((each) => openingOf(each) === "I have a square.")!;
  const prompt = [
    { content: COLLABORATIVE_SYSTEM_PROMPT, role: "system" },
    { content: "I have a square.", role: "user" },
  ];
  const { extra_info, index, ...rest } = row;
  t.deepEqual(rest, {
    prompt,
    ground_truth: "x = ±3, so $\\boxed{-3}$.",
    raw_prompt: prompt,
    reward_model: { ground_truth: "x = ±3, so $\\boxed{-3}$.", style: "rule" },
    data_source: "collabllm",
    agent_name: "itpo_collabllm_agent",
  });
  const source = (await readParquet(math.input))[0];
  const { prompt: _, single_turn_prompt, ...others } = source;
  t.deepEqual(extra_info, {
    ...others,
    prompt,
    interaction_kwargs: { name: "collabllm", single_turn_prompt, task_desc: "solving math problems" },
  });
  t.regex(String(index), /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/);

  const types = await parquetColumns(join(output, "rl_train.parquet"));
  t.deepEqual(Object.keys(types), [
    "prompt",
    "ground_truth",
    "raw_prompt",
    "extra_info",
    "reward_model",
    "data_source",
    "agent_name",
    "index",
  ]);
  t.deepEqual(types, await parquetColumns(join(output, "rl_validation.parquet")), "one table can hold both files");
  const { struct } = types.extra_info as { struct: Record<string, unknown> };
  t.deepEqual([struct.conv_id, struct.score, struct.turn_id], ["int64", "double", "int64"]);
});

test("rows are used once or dropped for a reason, for tasks and for dialogues", async (t) => {
  const { report } = await prepared(t, "math-hard", math);
  t.deepEqual(report.dropped, {
    rl: {
      "repeats the opening of an earlier row": 7,
      "opens like another task (--keep-shared-openings keeps it)": 4,
      "has no reference answer": 2,
    },
    sft: {
      "a reply to the same turn scores at least as high": 8,
      "its conversation goes on in another row": 2,
      "has no completion": 2,
    },
  });
  t.deepEqual(report.read, { [math.input]: 18 });
  const { written, dropped } = report;
  t.is(written["rl_train.parquet"] + written["rl_validation.parquet"] + sum(dropped.rl), 18);
  t.is(written["sft_train.parquet"] + written["sft_validation.parquet"] + sum(dropped.sft), 18);

  const all = await prepared(t, "math-hard", { ...math, keepSharedOpenings: true });
  t.is(all.rl_train.length + all.rl_validation.length, 6);
  t.is(sum(all.report.dropped.rl), 12);
});

test("a dialogue is a conversation's longest row, with the reply that scores highest", async (t) => {
  const { sft_train, sft_validation, output } = await prepared(t, "math-hard", math);
  const dialogues = [...sft_train, ...sft_validation];
  t.deepEqual(
    dialogues.find(
      (each) =>
        openingOf(each) === "I have a square." &&
        (each.prompt as Message[]).length === 5 &&
        JSON.stringify(each).includes("nine"),
    )!.prompt,
    [
      { content: COLLABORATIVE_SYSTEM_PROMPT, role: "system" },
      { content: "I have a square.", role: "user" },
      { content: "What do you know of it?", role: "assistant" },
      { content: "It is nine.", role: "user" },
      { content: "Then it is 3 or -3.", role: "assistant" },
    ],
  );
  t.deepEqual(Object.keys(await parquetColumns(join(output, "sft_train.parquet"))), ["prompt"]);
  t.is(dialogues.length, 6);
});

test("conversations about one problem fall on one side, in both uses, whatever the seed", async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.nat(1000), fc.constantFrom(0.2, 0.5, 2), async (seed, heldOut) => {
      const made = await prepared(t, "math-hard", { ...math, seed, heldOut });
      // Conversations 1 and 2 are about one problem; a dialogue tells its conversation by its opening.
      const problem: Record<string, string> = { "Another square.": "16", "Help with x² please 🌡️": "16" };
      const on = (...files: (typeof FILES)[number][]) =>
        new Set(files.flatMap((file) => made[file]).map((row) => problem[openingOf(row)] ?? openingOf(row)));
      const [train, heldOutSide] = [on("rl_train", "sft_train"), on("rl_validation", "sft_validation")];
      train.delete("I have a square."); // Conversations 0 and 3, about two problems.
      t.deepEqual(
        [...train].filter((each) => heldOutSide.has(each)),
        [],
      );
      t.is(made.rl_train.length + made.rl_validation.length, 5);
    }),
    { numRuns: 12 },
  );
});

test("the same input gives the same bytes; another seed holds out others", async (t) => {
  const hash = async (options: Partial<PrepareOptions>) => {
    const { output } = await prepared(t, "math-hard", { ...math, ...options });
    return FILES.map((file) =>
      createHash("sha256")
        .update(readFileSync(join(output, `${file}.parquet`)))
        .digest("hex"),
    );
  };
  const first = await hash({});
  t.deepEqual(await hash({}), first);
  t.deepEqual(await hash({ seed: 42 }), first);
  const others = await Promise.all([1, 2, 3].map((seed) => hash({ seed })));
  t.true(others.some(([train]) => train !== first[0]));
});

test("JSON and JSONL give what parquet gives", async (t) => {
  const rows = await readParquet(math.input);
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, "a.json"), JSON.stringify(rows));
  mkdirSync(join(folder, "lines"));
  const lines = rows.map((row) => `${JSON.stringify(row)}\n`);
  writeFileSync(join(folder, "lines", "0.jsonl"), lines.slice(0, 5).join(""));
  writeFileSync(join(folder, "lines", "1.jsonl"), lines.slice(5).join(""));
  const expected = await prepared(t, "math-hard", math);
  for (const input of ["a.json", "lines"]) {
    const made = await prepared(t, "math-hard", { ...math, input: join(folder, input) });
    for (const file of FILES) t.deepEqual(made[file], expected[file], `${input} ${file}`);
  }
});

test("each dataset has a task_desc of its own, and each published schema goes through", async (t) => {
  for (const [name, file, metadata] of [
    ["medium", "collab-medium.parquet", "timestamp"],
    ["bigcodebench-large", "collab-code-large.parquet", "test"],
  ] as const) {
    const input = fixture("data", file);
    const { rl_train, rl_validation } = await prepared(t, name, { input, heldOut: 1 });
    t.deepEqual([rl_train.length, rl_validation.length], [1, 1]);
    t.is(kwargsOf(rl_train[0]).task_desc, DATASETS[name].taskDesc);
    const info = rl_train[0].extra_info as { conv_id: number; sessions: unknown; single_turn_metadata: Row };
    const source = (await readParquet(input)).find(({ conv_id }) => conv_id === info.conv_id)!;
    t.deepEqual(info.sessions, source.sessions);
    t.deepEqual(info.single_turn_metadata, source.single_turn_metadata as Row);
    t.not(info.single_turn_metadata[metadata], null);
    const own = await prepared(t, name, { input, heldOut: 1, taskDesc: "writing verse" });
    t.is(kwargsOf(own.rl_train[0]).task_desc, "writing verse");
  }
  t.is(new Set(Object.values(DATASETS).map(({ taskDesc }) => taskDesc)).size, 4);
  await t.throwsAsync(prepared(t, "medium", { ...math, taskDesc: " " }), {
    instanceOf: InputError,
    message: /description is empty/,
  });
});

test("hyparquet, parquet-wasm and apache-arrow read the same from what was written, and readTasks reads the tasks", async (t) => {
  const { output } = await prepared(t, "math-hard", math);
  for (const file of FILES) {
    const path = join(output, `${file}.parquet`);
    const rows = await readParquet(path, { engine: "hyparquet" });
    t.deepEqual(await readParquet(path, { engine: "parquet-wasm" }), rows);
    const table = tableFromIPC(readWasm(new Uint8Array(readFileSync(path))).intoIPCStream());
    const numbers = (_: string, value: unknown) => (typeof value === "bigint" ? Number(value) : value);
    t.deepEqual(JSON.parse(JSON.stringify(table.toArray(), numbers)), JSON.parse(JSON.stringify(rows)));
  }
  const [task] = await readTasks(join(output, "rl_train.parquet"));
  const [row] = await readParquet(join(output, "rl_train.parquet"));
  t.like(task, {
    groundTruth: row.ground_truth,
    singleTurnPrompt: kwargsOf(row).single_turn_prompt,
    interaction: "collabllm",
  });
  t.deepEqual(task.prompt, row.prompt as Message[]);
  t.is(task.info.conv_id, (row.extra_info as Row).conv_id);
  await t.throwsAsync(readTasks(math.input), { instanceOf: InputError, message: /has no column/ });
});

test("MTMedDialog: a case is a task, what the patient knows is hidden, given validation cases are held out", async (t) => {
  const input = fixture("data", "medical.parquet");
  const { rl_train, rl_validation, sft_train, sft_validation, report } = await prepared(t, "mtmeddialog", {
    ...{ input, validation: fixture("data", "medical-val.parquet") },
  });
  t.deepEqual(
    [rl_train, rl_validation, sft_train, sft_validation].map((rows) => rows.length),
    [3, 1, 3, 1],
  );
  t.is(openingOf(rl_validation[0]), "喉咙痛 and a cough for three days");
  t.is(sum(report.read), 14);
  t.deepEqual(report.dropped, {
    rl: { "belongs to a case that is a task already": 10 },
    sft: { "is the beginning of a longer dialogue of its case": 10 },
  });
  const [row] = rl_train;
  t.deepEqual((row.prompt as Message[])[0], { content: MEDICAL_SYSTEM_PROMPT, role: "system" });
  t.is(
    row.ground_truth,
    "Diagnosis: Based on your symptoms, you likely have a sprained knee.\nRecommendation: Rest the knee, cool it, and see an orthopaedist if it still hurts in a week.",
  );
  t.like(kwargsOf(row), { name: "medical", task_desc: "medical consultation" });
  t.is(
    kwargsOf(row).single_turn_prompt.split("\n").slice(1, 3).join("|"),
    "Doctor: Hello, is the knee swollen?|Patient: Yes, it is twice as thick as the other.",
  );
  t.regex(kwargsOf(row).single_turn_prompt, /Patient: \(does not answer\)$/);
  t.is((row.extra_info as Row).diagnosis, "Based on your symptoms, you likely have a sprained knee.");
});

test("the file for reinforcement learning: its description is what the patient knows, and it needs no response", async (t) => {
  const rows = (await readParquet(fixture("data", "medical.parquet"))).map(({ response: _, ...row }, i) => ({
    ...row,
    reward_model: { ...(row.reward_model as Row), enhanced_description: `Story ${i}` },
  }));
  const input = join(temporaryFolder(t), "rl.jsonl");
  writeFileSync(input, rows.map((row) => JSON.stringify(row)).join("\n"));
  const { rl_train, rl_validation, report } = await prepared(t, "mtmeddialog", { input, heldOut: 1 });
  t.deepEqual([...rl_train, ...rl_validation].map((row) => kwargsOf(row).single_turn_prompt).sort(), [
    "Story 0",
    "Story 4",
    "Story 7",
    "Story 9",
  ]);
  t.deepEqual(report.dropped.sft, { "has no response": 11 });
});

test("the published MTMedDialog goes through whole", async (t) => {
  const input = join(root, "..", "shared", "data", "MTMedDialog_sft_train.parquet");
  if (!existsSync(input)) {
    t.log(`${input} is not here; nothing was tested`);
    t.pass();
    return;
  }
  const made = await prepared(t, "mtmeddialog", { input, validation: input.replace("_train", "_val") });
  t.deepEqual(
    FILES.map((file) => made[file].length),
    [893, 100, 893, 100],
  );
  t.is(sum(made.report.read), 6065);
  for (const use of ["rl", "sft"] as const) t.is(sum(made.report.dropped[use]), 6065 - 993);
  const train = new Set([...made.rl_train, ...made.sft_train].map(openingOf));
  t.deepEqual(
    [...made.rl_validation, ...made.sft_validation].filter((row) => train.has(openingOf(row))),
    [],
  );
});

test("malformed input is one line that says what to do, and writes nothing", async (t) => {
  const folder = temporaryFolder(t);
  const [row] = await readParquet(math.input);
  const file = (name: string, rows: unknown[]) => {
    writeFileSync(join(folder, name), JSON.stringify(rows));
    return join(folder, name);
  };
  const other = {
    ...row,
    conv_id: 9,
    single_turn_prompt: "x",
    prompt: [{ role: "user", content: "x" }],
    rewards: { a: "x" },
  };
  for (const [name, input, message, more] of [
    ["math-soft", math.input, /^there is no dataset 'math-soft'; choose math-hard, .*mtmeddialog$/],
    ["math-hard", fixture("data", "medical.parquet"), /row 0: conv_id: .*Choose a file of collabllm-multiturn/],
    ["mtmeddialog", math.input, /row 0: reward_model: .*Choose a file of MTMedDialog/],
    ["math-hard", file("a.json", [{ ...row, prompt: [{ role: "bot", content: "" }] }]), /row 0: prompt\.0\.role: /],
    ["math-hard", file("b.json", []), /has no rows; give another file/],
    [
      "math-hard",
      file("c.json", [{ ...row, single_turn_prompt: "" }]),
      /none of its 1 rows makes a task \(1 rows: has no single_turn_prompt\)/,
    ],
    ["math-hard", file("d.json", [row]), /cannot hold out 0\.3 of 1 groups/],
    ["math-hard", file("e.json", [{ ...row, rewards: { a: 1 } }, other]), /rewards\.a: holds int64 and string values/],
    ["math-hard", math.input, /is all there is; give other files to train on/, { validation: math.input }],
    ["math-hard", join(folder, "missing"), /no such file or folder/],
  ] as [string, string, RegExp, Partial<PrepareOptions>?][]) {
    const output = join(folder, "out");
    const error = await t.throwsAsync(prepare(name, { input, output, heldOut: 0.3, ...more }), {
      instanceOf: InputError,
      message,
    });
    t.false(error.message.includes("\n"), error.message);
    t.false(existsSync(output), `${message}: nothing is written`);
  }
  t.deepEqual(
    readdirSync(folder).filter((name) => name.endsWith(".tmp")),
    [],
  );
});
