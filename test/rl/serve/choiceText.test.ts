import test from "ava";
import fc from "fast-check";
import { ChoiceText, type Delta } from "../../../rl/serve/choiceText.js";
import { babbler } from "./support.js";

const { tokenizer } = await babbler();

/** What comes of tokens, piece by piece; the log-probability of token i is −i. */
function run(ids: readonly number[], { stops = [] as string[], logprobs = true } = {}) {
  const text = new ChoiceText(tokenizer, { stops, logprobs });
  const deltas: Delta[] = [];
  for (const [i, id] of ids.entries()) {
    if (!text.stopped) deltas.push(text.push(id, -i));
  }
  deltas.push(text.end());
  return { deltas, content: deltas.map(({ content }) => content).join(""), all: deltas.flatMap((one) => one.logprobs) };
}

/** Each character on its own. */
const charwise = (text: string) => [...text].flatMap((char) => tokenizer.encode(char));

test("every token's log-probability comes once, in order, with the text that it is part of", (t) => {
  fc.assert(
    fc.property(fc.array(fc.nat(tokenizer.vocabSize - 1), { maxLength: 20 }), (ids) => {
      const { content, all } = run(ids);
      t.is(content, tokenizer.decode(ids));
      t.deepEqual(
        all.map(({ logprob }) => logprob),
        ids.map((_, i) => Math.max(-9999, -i)),
      );
      t.deepEqual(
        all.flatMap(({ bytes }) => bytes ?? []),
        ids.flatMap((id) => [...tokenizer.bytes(id)]),
      );
    }),
  );
});

test("a token that is part of a character is spelled by its bytes", (t) => {
  const { deltas } = run(tokenizer.encode("é"));
  t.is(deltas.length, 3);
  t.is(deltas[0].content, "");
  t.deepEqual(deltas[0].logprobs, []);
  t.is(deltas[1].content, "é");
  t.deepEqual(
    deltas[1].logprobs.map(({ token, bytes }) => [token, bytes]),
    [
      ["\\xc3", [0xc3]],
      ["\\xa9", [0xa9]],
    ],
  );
});

test("tokens of a stop string have no log-probability in the result", (t) => {
  const { content, all } = run(charwise("ab!?c"), { stops: ["!?"] });
  t.is(content, "ab");
  t.is(all.map(({ token }) => token).join(""), "ab");
});

test("a special token adds no text, and is named", (t) => {
  const id = tokenizer.specialTokens.get("<|im_start|>")!;
  const { content, all } = run([...charwise("a"), id]);
  t.is(content, "a");
  t.deepEqual(
    all.map(({ token, bytes }) => [token, bytes]),
    [
      ["a", [97]],
      ["<|im_start|>", null],
    ],
  );
});

test("what is as good as impossible is a number in JSON", (t) => {
  const text = new ChoiceText(tokenizer, { stops: [], logprobs: true });
  t.is(text.push(charwise("a")[0], Number.NEGATIVE_INFINITY).logprobs[0].logprob, -9999);
});

test("log-probabilities come only where they are asked for", (t) => {
  t.deepEqual(run(charwise("abc"), { logprobs: false }).all, []);
});
