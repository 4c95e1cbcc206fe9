import test from "ava";
import fc from "fast-check";
import { checkDisjoint, splitByKey, withoutKeys } from "../../data/split.js";
import { InputError } from "../../lib/errors.js";

interface Item {
  key: string;
  row: number;
}
const keyOf = (item: Item) => item.key;
const items = Array.from({ length: 100 }, (_, row) => ({ key: `case ${row % 25}`, row }));
const keysOf = (some: readonly Item[]) => [...new Set(some.map(keyOf))].sort();

test("all items of a group fall on one side, none is lost, the order stays", (t) => {
  const item = fc.record({ key: fc.string({ maxLength: 2 }), row: fc.nat() });
  fc.assert(
    fc.property(
      fc.array(item, { maxLength: 60 }),
      fc.double({ min: 0.01, max: 0.9 }),
      fc.nat(),
      (some, heldOut, seed) => {
        fc.pre(Math.ceil(heldOut * keysOf(some).length) < keysOf(some).length);
        const split = splitByKey(some, keyOf, { heldOut, seed });
        checkDisjoint(split, keyOf);
        t.is(keysOf(split.heldOut).length, Math.ceil(heldOut * keysOf(some).length));
        const isHeldOut = new Set(keysOf(split.heldOut));
        t.deepEqual(
          split.heldOut,
          some.filter(({ key }) => isHeldOut.has(key)),
        );
        t.deepEqual(
          split.train,
          some.filter(({ key }) => !isHeldOut.has(key)),
        );
      },
    ),
  );
});

test("the split is the same every time and in any order, another seed gives another", (t) => {
  const { heldOut } = splitByKey(items, keyOf, { heldOut: 5 });
  t.deepEqual(keysOf(heldOut), ["case 13", "case 16", "case 24", "case 4", "case 5"]);
  t.deepEqual(keysOf(splitByKey(items.toReversed(), keyOf, { heldOut: 0.2 }).heldOut), keysOf(heldOut));
  t.notDeepEqual(keysOf(splitByKey(items, keyOf, { heldOut: 5, seed: 1 }).heldOut), keysOf(heldOut));
});

test("a share or count that leaves a side empty is refused", (t) => {
  for (const heldOut of [0, -1, 25, 2.5, 0.99, Number.NaN]) {
    t.throws(() => splitByKey(items, keyOf, { heldOut }), { instanceOf: InputError, message: /of 25 groups\. Give/ });
  }
});

test("a group on both sides is found, and withoutKeys takes it out", (t) => {
  const heldOut = items.slice(0, 3);
  t.throws(() => checkDisjoint({ train: items, heldOut }, keyOf), {
    instanceOf: InputError,
    message: /^3 held-out groups/,
  });
  const train = withoutKeys(items, heldOut, keyOf);
  t.is(train.length, 100 - 3 * 4);
  t.notThrows(() => checkDisjoint({ train, heldOut }, keyOf));
});
