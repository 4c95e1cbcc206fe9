import test from "ava";
import fc from "fast-check";
import { stopStrings } from "../../../rl/serve/stopStrings.js";

function run(stops: readonly string[], pieces: readonly string[]): { texts: string[]; rest: string; stopped: boolean } {
  const stream = stopStrings(stops);
  const texts = pieces.map((piece) => stream.push(piece));
  return { texts, rest: stream.end(), stopped: stream.stopped };
}

test("without stop strings everything comes at once", (t) => {
  t.deepEqual(run([], ["a", "b"]), { texts: ["a", "b"], rest: "", stopped: false });
});

test("a stop string across pieces is found, and is not in the text", (t) => {
  t.deepEqual(run(["END"], ["one E", "N", "D two", "three"]), { texts: ["one ", "", "", ""], rest: "", stopped: true });
});

test("a beginning of a stop string is held back until it is none", (t) => {
  t.deepEqual(run(["END"], ["one E", "N", "O"]), { texts: ["one ", "", "ENO"], rest: "", stopped: false });
});

test("a beginning of a stop string at the very end is text", (t) => {
  t.deepEqual(run(["END"], ["one EN"]), { texts: ["one "], rest: "EN", stopped: false });
});

test("a stop string that begins within another's beginning is found", (t) => {
  t.deepEqual(run(["aab"], ["aa", "ab"]), { texts: ["", "a"], rest: "", stopped: true });
});

test("of overlapping stop strings the one that ends first counts, then the longest", (t) => {
  t.is(run(["abc", "b"], ["xabc"]).texts.join(""), "xa");
  t.is(run(["b", "ab"], ["xab"]).texts.join(""), "x");
});

test("the text does not depend on how it comes, and is what comes before the first stop string", (t) => {
  const text = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 20 });
  const stop = fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(fc.array(stop, { maxLength: 4 }), fc.array(text, { maxLength: 6 }), (stops, pieces) => {
      const whole = pieces.join("");
      const result = run(stops, pieces);
      const given = result.texts.join("") + result.rest;
      const apart = run(stops, [...whole]);
      t.is(apart.texts.join("") + apart.rest, given);
      t.is(
        result.stopped,
        stops.some((one) => whole.includes(one)),
      );
      t.true(whole.startsWith(given));
      t.false(stops.some((one) => given.includes(one)));
      if (result.stopped) t.true(stops.some((one) => whole.startsWith(one, given.length)));
      else t.is(given, whole);
    }),
  );
});
