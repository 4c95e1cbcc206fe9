import test from "ava";
import { completeTurns, countTokens, lengthShares, turnRanges, turnSums } from "../../../rl/objective/index.js";
import { close, f1, near } from "./support.js";

test("turns are the runs of ones; a run at the mask's end counts", (t) => {
  const cases: [number[], [number, number][]][] = [
    [[], []],
    [[0, 0, 0], []],
    [[1], [[0, 1]]],
    [
      [1, 1, 0, 0, 1, 1, 1, 0],
      [
        [0, 2],
        [4, 7],
      ],
    ],
    [
      [0, 1, 0, 1, 1],
      [
        [1, 2],
        [3, 5],
      ],
    ],
    [[1, 1, 1], [[0, 3]]],
  ];
  for (const [mask, turns] of cases) {
    t.deepEqual(
      turnRanges(Uint8Array.from(mask)),
      turns.map(([start, end]) => ({ start, end })),
    );
  }
});

test("turn ends and length shares of the shared fixture", (t) => {
  const ends = f1.map(({ turns }) => turns.map(({ end }) => end - 1));
  t.deepEqual(ends, [[1, 6], [0, 3, 5], [2, 9], [3]]);
  near(
    t,
    f1.map(({ turns }) => lengthShares(turns)),
    [[0.4, 0.6], [0.25, 0.5, 0.25], [0.4285714, 0.5714286], [1]],
    1e-7,
  );
});

test("a row without turns has no tokens, no shares and no sums", (t) => {
  t.is(countTokens([]), 0);
  t.is(lengthShares([]).length, 0);
  t.is(turnSums([1, 2], []).length, 0);
});

test("turns cut off at a limit can be left out", (t) => {
  const turns = (["stop", "turn_length", "context_length"] as const).map((stop, start) => ({
    start,
    end: start + 1,
    stop,
  }));
  t.deepEqual(completeTurns(turns), [turns[0]]);
});

test("shares sum to one", (t) => {
  for (const { turns } of f1)
    close(
      t,
      lengthShares(turns).reduce((a, b) => a + b),
      1,
      1e-15,
    );
});
