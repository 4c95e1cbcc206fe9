import test from "ava";
import { randomStream } from "../../../lib/index.js";
import { answer, gameOf, question, readTurn, slots } from "../../../rl/environments/quickstart/game.js";
import {
  maxTalk,
  smallTalk,
  smalltalkEnvironment,
  smalltalkTokenizer,
} from "../../../rl/environments/smalltalk/game.js";
import { randomTalk, smalltalkCeilings } from "../../../rl/environments/smalltalk/scripts.js";
import { allTasks, answerHeard, hinted, type Player, script, table } from "./games.js";

const environment = smalltalkEnvironment();
const { play, meanAccuracy } = table(environment);
const others = (slot: number) => question((slot + 1) % slots.length);

/** Every way to talk before the answer: `before` small talks, a question, `after` small talks; two to five turns. */
const talks = Array.from({ length: maxTalk }, (_, before) =>
  Array.from({ length: maxTalk - before }, (_, after) => [before, after] as const),
).flat();

/** Small talk, a line, small talk, and the answer as far as it is known. */
const talk = (before: number, after: number, line: string | Player, guess = "red") =>
  script(...Array(before).fill(smallTalk), line, ...Array(after).fill(smallTalk), answerHeard(guess));

test("one question is answered, wherever it stands, and small talk politely", async (t) => {
  for (const [before, after] of talks) {
    for (const slot of slots.keys()) {
      const game = gameOf(11, "train");
      const { messages } = await play(11, "train", talk(before, after, question(slot)));
      const replies = messages.filter(({ role }) => role === "user").map(({ content }) => content);
      const value = slots[slot].values[game.values[slot]];
      const polite = (count: number) => Array(count).fill("nothing else");
      const reply = `${slot === game.slot ? "must" : "maybe"} ${value}`;
      t.deepEqual(replies, [game.opening, ...polite(before), reply, ...polite(after)]);
      t.is(messages.length, 2 * (before + after + 2));
    }
  }
});

test("who asks for what the opening hints at always wins, in two turns, five, and any way between", async (t) => {
  t.is(Math.max(...talks.map(([before, after]) => before + after + 2)), 5);
  for (const [before, after] of talks) {
    t.is(await meanAccuracy(talk(before, after, (messages) => question(hinted(messages)))), 1);
  }
  t.is(smalltalkCeilings().oracle, 1);
});

test("ceilings: a fixed script does not beat an answer at once, however long it talks", async (t) => {
  for (const [before, after] of [
    [0, 0],
    [3, 0],
    [1, 2],
  ]) {
    let best = 0;
    for (const asked of slots.keys()) {
      for (const { values } of slots) {
        best = Math.max(best, await meanAccuracy(talk(before, after, question(asked), values[0])));
      }
    }
    t.true(Math.abs(best - smalltalkCeilings().fixedScript) < 1e-12, `${best}`);
  }
  const hintedValue: Player = (messages) => answer(slots[hinted(messages)].values[0]);
  for (const silent of [0, 1, maxTalk]) {
    const accuracy = await meanAccuracy(script(...Array(silent).fill(smallTalk), hintedValue));
    t.is(accuracy, smalltalkCeilings().answerAtOnce);
  }
});

test("a second question, a fifth turn that is no answer, and nonsense end the game with 0", async (t) => {
  const { slot } = gameOf(5, "train");
  const ask = question(slot);
  const lost: readonly (readonly [messages: number, lines: readonly string[]])[] = [
    [4, [ask, ask]],
    [6, [smallTalk, ask, others(slot)]],
    [8, [ask, smallTalk, smallTalk, others(slot)]],
    [10, [ask, smallTalk, smallTalk, smallTalk, smallTalk]],
    [10, [smallTalk, smallTalk, smallTalk, smallTalk, ask]],
    [2, ["help"]],
    [4, [smallTalk, `${smallTalk} ?`]],
  ];
  for (const [length, lines] of lost) {
    const { accuracy, messages } = await play(5, "train", script(...lines, answerHeard("red")));
    t.deepEqual([accuracy, messages.length], [0, length], lines.join(", "));
  }
});

test("the useful turn is the one that asked for the slot that matters", async (t) => {
  const { slot } = gameOf(8, "train");
  for (const [before, after] of talks) {
    t.is((await play(8, "train", talk(before, after, question(slot)))).useful, before);
    t.is((await play(8, "train", talk(before, after, others(slot)))).useful, undefined);
  }
});

test("random talks are conversations that the environment has, of two to five turns, and know nothing of the task", async (t) => {
  const random = randomStream(3);
  const lengths = new Map<number, number>();
  const positions = new Map<number, number>();
  const asked = slots.map(() => slots.map(() => 0));
  const games = 3000;
  let right = 0;
  for (let task = 0; task < games; task++) {
    const game = gameOf(task, "train");
    const dialogue = randomTalk(game, random);
    const lines = dialogue.filter(({ role }) => role === "assistant").map(({ content }) => content);
    const { messages, accuracy, useful } = await play(task, "train", script(...lines));
    t.deepEqual(messages, dialogue);
    t.is(accuracy, useful === undefined ? 0 : 1);
    right += accuracy;
    lengths.set(lines.length, (lengths.get(lines.length) ?? 0) + 1);
    const position = lines.findIndex((line) => line !== smallTalk);
    if (lines.length === 5) positions.set(position, (positions.get(position) ?? 0) + 1);
    const turn = readTurn(lines[position]);
    if (turn && "asked" in turn) asked[game.slot][turn.asked]++;
  }
  const isEven = (counts: Iterable<number>) => {
    const each = [...counts];
    const total = each.reduce((a, b) => a + b, 0);
    const share = 1 / each.length;
    return each.every((n) => Math.abs(n / total - share) < 4 * Math.sqrt((share * (1 - share)) / total));
  };
  t.deepEqual([...lengths.keys()].sort(), [2, 3, 4, 5]);
  t.true(isEven(lengths.values()), `${[...lengths]}`);
  t.is(positions.size, maxTalk);
  t.true(isEven(positions.values()), `${[...positions]}`);
  for (const row of asked) t.true(isEven(row), `${row}`);
  t.true(Math.abs(right / games - 1 / 6) < 4 * Math.sqrt(5 / 36 / games), `${right / games}`);
});

test("no text of the game holds an unknown word, and all turns are equally long", (t) => {
  const tokenizer = smalltalkTokenizer();
  const unknown = tokenizer.specialTokens.get("<unknown>")!;
  const random = randomStream(4);
  const lengths = new Set<number>();
  for (let task = 0; task < 300; task++) {
    for (const { role, content } of randomTalk(gameOf(task, "train"), random)) {
      const ids = tokenizer.encode(content);
      t.false(ids.includes(unknown), content);
      t.is(tokenizer.decode(ids), content);
      if (role === "assistant") lengths.add(ids.length);
    }
  }
  t.deepEqual([...lengths], [3]);
});

test("there are as many held-out games as asked for, and every task is one of them", (t) => {
  t.is(environment.heldOutSize, 512);
  t.is(smalltalkEnvironment({ heldOutGames: 7 }).heldOutSize, 7);
  t.true(environment.size >= allTasks.length);
});
