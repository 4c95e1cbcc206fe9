import test from "ava";
import { formatBytes, progressLine } from "../../../rl/cli/progress.js";

function stream(isTTY: boolean) {
  const written: string[] = [];
  return {
    written,
    isTTY,
    columns: 10,
    write: (text: string) => written.push(text) > 0,
  } as never as NodeJS.WriteStream & {
    written: string[];
  };
}

test("a progress line is rewritten in place, at most ten times a second, cut to the terminal, and removed", (t) => {
  let time = 0;
  const terminal = stream(true);
  const line = progressLine(terminal, () => time);
  for (const at of [0, 50, 99, 100]) {
    time = at;
    line.show(`${at} of very many`);
  }
  line.clear();
  t.deepEqual(terminal.written, ["\r\x1b[2K0 of very", "\r\x1b[2K100 of ve", "\r\x1b[2K"]);
  const file = stream(false);
  progressLine(file).show("text");
  t.deepEqual(file.written, [], "nothing where standard error is a file");
});

test("formatBytes", (t) => {
  t.deepEqual([0, 999, 1000, 13_449, 6.2e9, 5e15].map(formatBytes), [
    "0 B",
    "999 B",
    "1.0 kB",
    "13.4 kB",
    "6.2 GB",
    "5000.0 TB",
  ]);
});
