import test from "ava";
import fc from "fast-check";
import { checkDisjoint, joinGroups, splitByKey, withoutKeys } from "../../data/split.js";
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

test("joinGroups joins lists that share a key, directly or through others", (t) => {
  const groupOf = joinGroups([["a", "1"], ["b", "2"], ["c", "2"], ["d", "1", "x"], ["e"]]);
  t.deepEqual(["a", "1", "d", "x", "b", "c", "2", "e", "unknown"].map(groupOf), [
    ...["a", "a", "a", "a", "b", "b", "b", "e", "unknown"],
  ]);
});

test("joinGroups gives the connected components, whatever the order", (t) => {
  const lists = fc.array(fc.array(fc.constantFrom(..."abcdefgh"), { minLength: 1, maxLength: 3 }), { maxLength: 8 });
  fc.assert(
    fc.property(lists, (all) => {
      const groupOf = joinGroups(all);
      for (const list of all) for (const key of list) t.is(groupOf(key), groupOf(list[0]));
      const reach = new Map([..."abcdefgh"].map((key) => [key, new Set([key])]));
      for (let pass = 0; pass < 8; pass++) {
        for (const list of all) {
          const joined = new Set(list.flatMap((key) => [...reach.get(key)!]));
          for (const key of list) for (const other of joined) reach.get(key)!.add(other);
        }
      }
      for (const [key, others] of reach) {
        for (const other of "abcdefgh") t.is(groupOf(key) === groupOf(other), others.has(other), `${key}${other}`);
      }
    }),
  );
});
