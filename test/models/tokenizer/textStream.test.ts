import test from "ava";
import fc from "fast-check";
import { loadTokenizer, type Tokenizer, trainBpe } from "../../../models/tokenizer/index.js";
import { textStream } from "../../../models/tokenizer/textStream.js";
import { quickstartTokenizer } from "../../../rl/environments/quickstart/tokenizer.js";
import { fixture } from "../../support.js";

/** SentencePiece writes another number of U+FFFD for a broken character. */
const oncePerRun = (text: string) => text.replace(/\ufffd+/g, "\ufffd");

const bpe = () => trainBpe(["größe größe 你好 你好 🙂"], { vocabSize: 270, specialTokens: ["<|im_end|>"] });
const exactly = (text: string) => text;
const tokenizers: Record<string, readonly [open: () => Promise<Tokenizer> | Tokenizer, seen: typeof exactly]> = {
  "byte-level BPE": [bpe, exactly],
  SentencePiece: [() => loadTokenizer(fixture("sentencepiece")), oncePerRun],
  "word level": [quickstartTokenizer, exactly],
};

for (const [name, [open, seen]] of Object.entries(tokenizers)) {
  test(`${name}: streamed texts put together are the decoded text, whatever the tokens`, async (t) => {
    const tokenizer = await open();
    fc.assert(
      fc.property(fc.array(fc.nat(tokenizer.vocabSize + 2), { maxLength: 12 }), (ids) => {
        const stream = textStream(tokenizer);
        const text = ids.map((id) => stream.push(id)).join("") + stream.end();
        t.is(seen(text), seen(tokenizer.decode(ids)));
      }),
    );
    t.pass();
  });
}

test("a character comes out whole, with its last byte", async (t) => {
  const tokenizer = await bpe();
  const ids = [..."🙂"].flatMap((char) => tokenizer.encode(char));
  t.is(ids.length, 4);
  const stream = textStream(tokenizer);
  t.deepEqual(
    ids.map((id) => stream.push(id)),
    ["", "", "", "🙂"],
  );
  t.is(stream.end(), "");
});

test("a character that is not completed is U+FFFD at the end", async (t) => {
  const tokenizer = await bpe();
  const stream = textStream(tokenizer);
  t.is(stream.push(tokenizer.encode("🙂")[0]), "");
  t.is(stream.end(), "\ufffd");
});

test("the bytes of a text's tokens are those of the text", async (t) => {
  const tokenizer = await bpe();
  const bytes = tokenizer.encode("größe 🙂").flatMap((id) => [...tokenizer.bytes(id)]);
  t.deepEqual(bytes, [...Buffer.from("größe 🙂")]);
});
