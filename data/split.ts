import { createHash } from "node:crypto";
import { InputError } from "../lib/errors.js";

export interface SplitOptions {
  /** How much to hold out: a share of the groups in (0, 1), rounded up, or a count of groups from 1. */
  readonly heldOut: number;
  /** Default 0. Another seed holds out other groups. */
  readonly seed?: number;
}

export interface Split<T> {
  readonly train: readonly T[];
  readonly heldOut: readonly T[];
}

/**
 * Splits by group: items with one key (a case, a conversation) fall on one side. The groups are ordered by a hash of
 * seed and key and the first are held out, so the split depends on neither the items' order nor the platform. Both
 * sides keep the items' order.
 * @throws InputError where nothing would be left to train on, or `heldOut` is no such number.
 */
export function splitByKey<T>(items: readonly T[], keyOf: (item: T) => string, options: SplitOptions): Split<T> {
  const { heldOut, seed = 0 } = options;
  const keys = [...new Set(items.map(keyOf))];
  const count = heldOut < 1 ? Math.ceil(heldOut * keys.length) : heldOut;
  if (!(heldOut > 0) || !Number.isInteger(count) || count >= keys.length) {
    throw new InputError(
      `cannot hold out ${heldOut} of ${keys.length} groups. ` +
        `Give a share between 0 and 1, or a count from 1 to ${keys.length - 1}.`,
    );
  }
  const chosen = new Set(
    keys
      .map((key) => ({ key, hash: createHash("sha256").update(`${seed}\n${key}`).digest("hex") }))
      .sort((a, b) => (a.hash < b.hash ? -1 : 1))
      .slice(0, count)
      .map(({ key }) => key),
  );
  return {
    train: items.filter((item) => !chosen.has(keyOf(item))),
    heldOut: items.filter((item) => chosen.has(keyOf(item))),
  };
}

/**
 * Joins what belongs together: keys of one list fall into one group, and so do lists that share a key, directly or
 * through others. Gives the function from a key to its group's name, the group's first key.
 */
export function joinGroups(lists: Iterable<readonly string[]>): (key: string) => string {
  const parents = new Map<string, string>();
  const order = new Map<string, number>();
  const rootOf = (key: string) => {
    let root = key;
    for (let parent = parents.get(root); parent !== undefined; parent = parents.get(root)) root = parent;
    while (key !== root) {
      const next = parents.get(key)!;
      parents.set(key, root);
      key = next;
    }
    return root;
  };
  for (const list of lists) {
    for (const key of list) {
      if (!order.has(key)) order.set(key, order.size);
      const [a, b] = [rootOf(list[0]), rootOf(key)];
      if (a !== b) order.get(a)! < order.get(b)! ? parents.set(b, a) : parents.set(a, b);
    }
  }
  return rootOf;
}

/** The items whose group is not among those of `others`: for a validation file that its training file contains. */
export function withoutKeys<T>(items: readonly T[], others: readonly T[], keyOf: (item: T) => string): T[] {
  const keys = new Set(others.map(keyOf));
  return items.filter((item) => !keys.has(keyOf(item)));
}

/** @throws InputError where a group stands on both sides, which would make held-out figures worthless. */
export function checkDisjoint<T>({ train, heldOut }: Split<T>, keyOf: (item: T) => string): void {
  const keys = new Set(train.map(keyOf));
  const shared = new Set(heldOut.map(keyOf).filter((key) => keys.has(key)));
  if (shared.size) {
    throw new InputError(
      `${shared.size} held-out groups are also in training. Split by group, or take them out with withoutKeys.`,
    );
  }
}
