import test from "ava";
import { decode, encode, fromBf16, fromF16, toBf16, toF16 } from "../../lib/dtype.js";

const formats = [
  { name: "bf16", to: toBf16, from: fromBf16, infinity: 0x7f80, quiet: 0x40 },
  { name: "f16", to: toF16, from: fromF16, infinity: 0x7c00, quiet: 0x200 },
];

const known: Record<string, [pattern: number, value: number][]> = {
  bf16: [
    [0x3f80, 1],
    [0xc000, -2],
    [0x4049, 3.140625],
    [0x0080, 2 ** -126],
    [0x0001, 2 ** -133],
    [0x7f7f, (2 - 2 ** -7) * 2 ** 127],
  ],
  f16: [
    [0x3c00, 1],
    [0xc000, -2],
    [0x3555, 0.333251953125],
    [0x0400, 2 ** -14],
    [0x03ff, 1023 * 2 ** -24],
    [0x0001, 2 ** -24],
    [0x7bff, 65504],
  ],
};

for (const { name, to, from, infinity, quiet } of formats) {
  test(`${name}: bit patterns stand for their IEEE values`, (t) => {
    for (const [pattern, value] of known[name]) {
      t.is(from(pattern), value);
      t.is(to(value), pattern);
    }
    t.is(from(infinity), Number.POSITIVE_INFINITY);
    t.is(from(infinity | 0x8000), Number.NEGATIVE_INFINITY);
  });

  test(`${name}: all 65536 patterns survive the round trip; NaN stays NaN`, (t) => {
    const wrong: number[] = [];
    for (let pattern = 0; pattern < 0x10000; pattern++) {
      const back = to(from(pattern));
      const notANumber = (pattern & 0x7fff) > infinity;
      if (notANumber ? !Number.isNaN(from(pattern)) || !Number.isNaN(from(back)) : back !== pattern)
        wrong.push(pattern);
    }
    t.deepEqual(wrong, []);
    t.is(to(Number.NaN) & (infinity | quiet), infinity | quiet);
    t.true(Object.is(from(to(-0)), -0));
  });

  test(`${name}: between every two neighbours, halves go to the even one and all else to the nearest`, (t) => {
    const wrong: string[] = [];
    for (let low = 0; low < infinity; low++) {
      // Beyond the largest finite number the next step of the same size counts as infinity.
      const high = low + 1;
      const a = from(low);
      const b = high === infinity ? 2 * a - from(low - 1) : from(high);
      const middle = (a + b) / 2;
      const nudge = (b - a) / 64;
      for (const sign of [1, -1]) {
        const bit = sign < 0 ? 0x8000 : 0;
        if (to(sign * middle) !== (bit | (low % 2 === 0 ? low : high))) wrong.push(`half of ${low}`);
        if (to(sign * (middle - nudge)) !== (bit | low)) wrong.push(`below half of ${low}`);
        if (to(sign * (middle + nudge)) !== (bit | high)) wrong.push(`above half of ${low}`);
      }
    }
    t.deepEqual(wrong.slice(0, 5), []);
  });
}

test("what is too large becomes infinity, what is too small zero of its sign", (t) => {
  t.is(toF16(65519.99), 0x7bff);
  t.is(toF16(65520), 0x7c00);
  t.is(toF16(-1e30), 0xfc00);
  t.is(toF16(2 ** -25), 0);
  t.is(toF16(-(2 ** -25)), 0x8000);
  t.is(toF16(1.01 * 2 ** -25), 1);
  t.is(toBf16(3.4e38), 0x7f80);
  t.is(toBf16(Number.NEGATIVE_INFINITY), 0xff80);
});

test("encode holds numbers as each dtype; decode widens 16-bit floats and passes the rest", (t) => {
  t.deepEqual(encode([1.9, -1.9], "i32"), Int32Array.from([1, -1]));
  t.deepEqual(encode([2, 0, 0.5, Number.NaN], "bool"), Uint8Array.from([1, 0, 1, 1]));
  t.deepEqual(encode([1, -2], "bf16"), Uint16Array.from([0x3f80, 0xc000]));
  t.deepEqual(decode(encode([1, -2, 0.5], "f16"), "f16"), Float32Array.from([1, -2, 0.5]));
  const ints = Int32Array.from([3]);
  t.is(decode(ints, "i32"), ints);
});
