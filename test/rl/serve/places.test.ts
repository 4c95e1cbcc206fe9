import test from "ava";
import { ApiError } from "../../../rl/serve/errors.js";
import { Places } from "../../../rl/serve/places.js";

const never = new AbortController().signal;

test("requests enter in the order in which they came, each when all its places are free", async (t) => {
  const places = new Places(3, { maxWaiting: 9 });
  const entered: string[] = [];
  const enter = (name: string, count: number) =>
    places.take(count, never).then((leave) => {
      entered.push(name);
      return leave;
    });
  const leaveA = await enter("a", 2);
  const b = enter("b", 3);
  const c = enter("c", 1); // There is room for it, and it waits behind b.
  await new Promise(setImmediate);
  t.deepEqual([entered, places.waiting], [["a"], 2]);
  leaveA();
  const leaveB = await b;
  t.deepEqual(entered, ["a", "b"]);
  leaveB();
  (await c)();
  t.deepEqual([entered, places.waiting], [["a", "b", "c"], 0]);
});

test("who comes when the line is full is refused, and told when to come again", async (t) => {
  const places = new Places(1, { maxWaiting: 1 });
  const leave = await places.take(1, never);
  const waiting = places.take(1, never);
  const error = (await t.throwsAsync(places.take(1, never), { instanceOf: ApiError }))!;
  t.deepEqual([error.status, error.headers["retry-after"]], [429, "1"]);
  leave();
  (await waiting)();
  (await places.take(1, never))();
});

test("who gives up leaves the line, and those behind move up", async (t) => {
  const places = new Places(2, { maxWaiting: 9 });
  const leave = await places.take(1, never);
  const impatient = new AbortController();
  const large = places.take(2, impatient.signal);
  const small = places.take(1, never);
  impatient.abort(new Error("gone"));
  await t.throwsAsync(large, { message: "gone" });
  (await small)();
  leave();
  (await places.take(2, never))();
});

test("who has given up already takes no place", async (t) => {
  const places = new Places(1, { maxWaiting: 0 });
  await t.throwsAsync(places.take(1, AbortSignal.abort(new Error("gone"))), { message: "gone" });
  (await places.take(1, never))();
});
