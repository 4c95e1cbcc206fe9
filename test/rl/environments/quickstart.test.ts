import test from "ava";
import { randomStream } from "../../../lib/index.js";
import {
  answer,
  gameOf,
  maxQuestions,
  question,
  quickstartEnvironment,
  readTurn,
  type Split,
  slots,
  words,
} from "../../../rl/environments/quickstart/game.js";
import { ceilings, randomScript } from "../../../rl/environments/quickstart/scripts.js";
import { quickstartTokenizer } from "../../../rl/environments/quickstart/tokenizer.js";
import { allTasks, answerHeard, heldOutCombinations, hinted, script, table, trainCombinations } from "./games.js";

const environment = quickstartEnvironment();
const { play, meanAccuracy } = table(environment);

test("the slot that matters is answered for certain, another with a value of its own", async (t) => {
  for (const [task, split] of allTasks) {
    const game = gameOf(task, split);
    for (const [slot, { values }] of slots.entries()) {
      const { messages } = await play(task, split, script(question(slot), "help"));
      t.is(messages[2].content, `${slot === game.slot ? "must" : "maybe"} ${values[game.values[slot]]}`);
    }
  }
});

test("the right answer earns 1 at any turn, a wrong one 0, and both end the game", async (t) => {
  const { slot, values } = gameOf(3, "train");
  const right = slots[slot].values[values[slot]];
  const wrong = slots[slot].values[(values[slot] + 1) % 4];
  const other = question((slot + 1) % 6);
  for (const questions of [[], [other], [other, question(slot)]]) {
    const won = await play(3, "train", script(...questions, answer(right), other));
    t.deepEqual([won.accuracy, won.messages.length], [1, 2 * questions.length + 2]);
    const lost = await play(3, "train", script(...questions, answer(wrong), other));
    t.deepEqual([lost.accuracy, lost.messages.length], [0, 2 * questions.length + 2]);
  }
});

test("a third question and a turn that is neither question nor answer end the game with 0", async (t) => {
  const { slot } = gameOf(5, "train");
  const ask = question(slot);
  const tooMany = await play(5, "train", script(ask, ask, ask, answerHeard("red")));
  t.deepEqual([tooMany.accuracy, tooMany.messages.length], [0, 6]);
  const twice = await play(5, "train", script(ask, ask, answerHeard("red")));
  t.deepEqual([twice.accuracy, maxQuestions], [1, 2]);
  for (const turn of ["", "hello", `${ask} ?`, ` ${ask}`, answer("mauve"), "so pick red blue", "must red"]) {
    const { accuracy, messages } = await play(5, "train", script(turn, ask));
    t.deepEqual([accuracy, messages.length], [0, 2], turn);
    t.is(readTurn(turn), undefined);
  }
});

test("the useful turn is the first that asked for the slot that matters", async (t) => {
  const { slot } = gameOf(8, "train");
  const [useful, useless] = [question(slot), question((slot + 1) % 6)];
  const at = async (...lines: string[]) => (await play(8, "train", script(...lines, answerHeard("red")))).useful;
  t.is(await at(useful, useless), 0);
  t.is(await at(useless, useful), 1);
  t.is(await at(useful, useful), 0);
  t.is(await at(useless, useless), undefined);
  t.is(await at(), undefined);
});

test("the splits share no combination, make up all of them, and training has every word", (t) => {
  const combination = (task: number, split: Split) => {
    const { slot, values, opening } = gameOf(task, split);
    return `${slot} ${values[slot]} ${opening}`;
  };
  const all = 6 * 4 * 2 * 4;
  const of = (split: Split, count: number) => new Set(Array.from({ length: count }, (_, i) => combination(i, split)));
  const [train, heldOut] = [of("train", 5000), of("held_out", 5000)];
  t.deepEqual([train.size, heldOut.size], [trainCombinations, heldOutCombinations]);
  t.is(train.size + heldOut.size, all);
  t.is(new Set([...train, ...heldOut]).size, all);

  const random = randomStream(1);
  const seen = new Set<string>();
  for (let task = 0; task < 3000; task++) {
    for (const { content } of randomScript(gameOf(task, "train"), random)) {
      for (const word of content.split(" ")) seen.add(word);
    }
  }
  t.deepEqual([...seen].sort(), [...words].sort());
});

test("there are at least 500 held-out games, hardly two alike, and each is what it was", (t) => {
  t.true(environment.heldOutSize >= 500);
  const games = Array.from({ length: environment.heldOutSize }, (_, task) => gameOf(task, "held_out"));
  t.true(new Set(games.map((game) => JSON.stringify(game))).size > 0.95 * games.length);
  t.deepEqual(gameOf(77, "held_out"), games[77]);
});

test("every word is a token of its own and no text of the game holds an unknown one", (t) => {
  const tokenizer = quickstartTokenizer();
  const unknown = tokenizer.specialTokens.get("<unknown>")!;
  t.is(new Set(words).size, words.length);
  t.is(tokenizer.vocabSize, words.length + tokenizer.specialTokens.size);
  const random = randomStream(2);
  for (let task = 0; task < 300; task++) {
    for (const { content } of randomScript(gameOf(task, "train"), random)) {
      const ids = tokenizer.encode(content);
      t.is(ids.length, content.split(" ").length);
      t.false(ids.includes(unknown), content);
      t.is(tokenizer.decode(ids), content);
    }
  }
});

test("ceilings: the best of all policies that answer at once, by trying each", async (t) => {
  // The best value for every opening, and the best value whatever the opening.
  const byOpening = new Map<string, Map<string, number>>();
  const byValue = new Map<string, number>();
  for (const [task, split] of allTasks) {
    const { opening } = gameOf(task, split);
    for (const value of slots.flatMap(({ values }) => values)) {
      const { accuracy } = await play(task, split, script(answer(value)));
      const counts = byOpening.get(opening) ?? byOpening.set(opening, new Map()).get(opening)!;
      counts.set(value, (counts.get(value) ?? 0) + accuracy);
      byValue.set(value, (byValue.get(value) ?? 0) + accuracy);
    }
  }
  const best = [...byOpening.values()].reduce((sum, counts) => sum + Math.max(...counts.values()), 0);
  t.is(best / allTasks.length, ceilings().answerAtOnce);
  t.is(Math.max(...byValue.values()) / allTasks.length, 1 / 24);
  t.true(ceilings().answerAtOnce <= 0.25);
});

test("ceilings: the best of all fixed scripts, by playing each", async (t) => {
  let best = 0;
  for (let first = 0; first < slots.length; first++) {
    for (let second = first; second < slots.length; second++) {
      for (const { values } of slots) {
        const player = script(question(first), question(second), answerHeard(values[0]));
        best = Math.max(best, await meanAccuracy(player));
      }
    }
  }
  t.true(Math.abs(best - ceilings().fixedScript) < 1e-12, `${best} and ${ceilings().fixedScript}`);
  t.true(best <= 0.45);
});

test("ceilings: who asks for what the opening hints at always wins", async (t) => {
  const oracle = script((messages) => question(hinted(messages)), answerHeard("red"));
  t.is(await meanAccuracy(oracle), 1);
  t.is(ceilings().oracle, 1);
  const heldOut = Array.from({ length: environment.heldOutSize }, (_, task) => [task, "held_out"] as const);
  t.is(await meanAccuracy(oracle, heldOut), 1);
});

test("random scripts are conversations that the environment has, and know nothing of the task", async (t) => {
  const random = randomStream(3);
  const useful = [0, 0];
  let right = 0;
  const games = 3000;
  for (let task = 0; task < games; task++) {
    const dialogue = randomScript(gameOf(task, "train"), random);
    const lines = dialogue.filter(({ role }) => role === "assistant").map(({ content }) => content);
    const { messages, accuracy, useful: turn } = await play(task, "train", script(...lines));
    t.deepEqual(messages, dialogue);
    t.is(lines.length, maxQuestions + 1);
    t.not(lines[0], lines[1]);
    t.is(accuracy, turn === undefined ? 0 : 1);
    right += accuracy;
    if (turn !== undefined) useful[turn]++;
  }
  // A third of the pairs hold the slot that matters, and it is the first as often as the second: four deviations.
  t.true(Math.abs(right / games - 1 / 3) < 4 * Math.sqrt(2 / 9 / games), `${right / games}`);
  t.true(Math.abs(useful[0] / right - 0.5) < 4 * Math.sqrt(1 / 4 / right), `${useful}`);
});

test("what a script asks for does not depend on the opening", (t) => {
  const random = randomStream(4);
  const counts = slots.map(() => slots.map(() => 0));
  const games = 6000;
  for (let task = 0; task < games; task++) {
    const game = gameOf(task, "train");
    for (const { role, content } of randomScript(game, random)) {
      const turn = role === "assistant" ? readTurn(content) : undefined;
      if (turn && "asked" in turn) counts[game.slot][turn.asked]++;
    }
  }
  for (const row of counts) {
    const total = row.reduce((a, b) => a + b, 0);
    for (const count of row) t.true(Math.abs(count / total - 1 / 6) < 0.04, `${row}`);
  }
});
