import test from "ava";
import {
  attention,
  concat,
  fromHost,
  linear,
  linearLogprob,
  normSwiglu,
  pagedAttention,
  qkNorm,
  qkvToCache,
  rmsNorm,
  rope,
  type Shape,
  sampleLogits,
  setRows,
  slotAttention,
  swiglu,
  tensor,
  where,
  zeros,
} from "../../../lib/index.js";
import { kernels } from "../support.js";

const backend = kernels;
const f32 = (...shape: Shape) => zeros(shape, { backend });
const bf16 = (...shape: Shape) => zeros(shape, { backend, dtype: "bf16" });
const i32 = (...shape: Shape) => zeros(shape, { backend, dtype: "i32" });
const index = (...values: number[]) => tensor(values, { backend, dtype: "i32" });
const layout = { heads: 2, kvHeads: 1, headDim: 4 };
const rotation = { ...layout, theta: 1e4 };
const placement = { positions: i32(2), rows: i32(2) };
const weights = { norm: f32(3), eps: 1e-6, weight: f32(16, 3) };
const context = { offsets: Int32Array.of(0, 2), lengths: Int32Array.of(3), pages: [[0]], pageSize: 4 };

const slots = { lengths: i32(2), table: i32(2, 1), chunks: 1, work: i32(32), pageSize: 4 };
const draws = {
  ...{ temperature: f32(2), topP: f32(2), minP: f32(2), topK: i32(2), positions: i32(2) },
  key: [1, 2] as const,
};

/** What was called, and what its message has to say: the operation, what it was given, what it needs. */
const mistakes: [name: string, call: () => unknown, ...says: string[]][] = [
  ["shapes that do not broadcast", () => f32(2, 3).add(f32(2)), "add", "[2, 3]", "[2]", "equal or 1"],
  ["operands of two dtypes", () => f32(2).mul(bf16(2)), "mul", "f32", "bf16", "to()"],
  ["where without a bool", () => where(f32(2), f32(2), f32(2)), "where", "f32", "compare"],
  ["where of two dtypes", () => where(f32(2).less(1), f32(2), bf16(2)), "where", "bf16", "to()"],
  ["an axis that is not there", () => f32(2, 3).sum(2), "sum", "axis 2", "[2, 3]"],
  ["an axis that is no number", () => f32(2, 3).max(0.5), "max", "0.5"],
  ["a reshape of another size", () => f32(2, 3).reshape([4, 2]), "reshape", "[2, 3]", "6 elements", "[4, 2]"],
  ["a reshape that does not divide", () => f32(2, 3).reshape([-1, 4]), "reshape", "[-1, 4]"],
  ["a permutation that repeats", () => f32(2, 3).permute([0, 0]), "permute", "[0, 0]", "[2, 3]"],
  ["a transpose of a vector", () => f32(3).transpose(), "transpose", "[3]"],
  ["a slice past the end", () => f32(2, 3).slice(1, 1, 4), "slice", "[1, 4)", "axis 1", "[2, 3]"],
  ["a concat of unlike shapes", () => concat([f32(2, 3), f32(3, 2)], 0), "concat", "[3, 2]", "[2, 3]", "axis 0"],
  ["a concat of nothing", () => concat([], 0), "concat", "at least one"],
  ["inner extents that differ", () => f32(2, 3).matmul(f32(2, 3)), "matmul", "[2, 3]", "inner"],
  ["matmul transposed wrongly", () => f32(2, 3).matmul(f32(3, 2), { transposeB: true }), "[3, 2]ᵀ"],
  ["batches that differ", () => f32(2, 2, 3).matmul(f32(3, 3, 2)), "matmul", "[2, 2, 3]", "[3, 3, 2]"],
  ["a weight that does not fit", () => linear(f32(2, 3), f32(4, 2)), "linear", "[2, 3]", "[4, 2]", "[out, in]"],
  ["a bias that does not fit", () => linear(f32(2, 3), f32(4, 3), { bias: f32(3) }), "linear", "bias f32 [3]"],
  ["rows by a float index", () => f32(2, 3).gatherRows(f32(2)), "gatherRows", "index f32 [2]", "i32"],
  ["rows that do not exist", () => f32(2, 3).gatherRows(index(2)), "gatherRows", "index 2", "[0, 2)"],
  ["rows below −1", () => f32(2, 3).gatherRows(index(-2)), "gatherRows", "index -2"],
  ["scatter of other rows", () => f32(2, 3).scatterRows(index(0), 4), "scatterRows", "1 indices", "2 rows"],
  ["scatter past the end", () => f32(1, 3).scatterRows(index(4), 4), "scatterRows", "index 4", "[0, 4)"],
  ["setRows of other columns", () => setRows(f32(4, 3), index(0), f32(1, 2)), "setRows", "[1, 2]", "[4, 3]"],
  ["a pick past the last column", () => f32(2, 3).pick(index(0, 3)), "pick", "index 3", "[0, 3)"],
  ["a pick with too few indices", () => f32(2, 3).pick(index(0)), "pick", "[2, 3]", "i32 [1]"],
  ["a norm weight of another width", () => rmsNorm(f32(2, 3), f32(4)), "rmsNorm", "[4]", "[2, 3]"],
  ["qkNorm weights of another width", () => qkNorm(f32(2, 16), f32(3), f32(4), layout), "qkNorm", "[3]", "headDim 4"],
  ["a projection of another width", () => rope(f32(2, 15), i32(2), rotation), "rope", "[2, 15]", "(2 + 2·1)·4"],
  ["positions of another length", () => rope(f32(2, 16), i32(3), rotation), "rope", "[3]", "2 tokens"],
  [
    "heads that do not share evenly",
    () => attention(f32(2, 28), Int32Array.of(0, 2), { heads: 3, kvHeads: 2, headDim: 4 }),
    "attention",
    "3 heads over 2",
  ],
  ["offsets that fall", () => attention(f32(2, 16), Int32Array.of(0, 3, 2), layout), "attention", "offsets"],
  ["offsets that end early", () => attention(f32(2, 16), Int32Array.of(0, 1), layout), "offsets", "2", "1"],
  ["swiglu of an odd width", () => swiglu(f32(2, 3)), "swiglu", "[2, 3]", "2·width"],
  ["a cache of another width", () => pagedAttention(f32(2, 16), f32(4, 9), context, layout), "[4, 9]", "[2, 16]"],
  [
    "a sequence longer than its pages",
    () => pagedAttention(f32(2, 16), f32(4, 8), { ...context, lengths: Int32Array.of(5) }, layout),
    "pagedAttention",
    "sequence 0",
    "5 tokens",
    "room for 4 on 1 page",
  ],
  [
    "more new tokens than the sequence has",
    () => pagedAttention(f32(2, 16), f32(4, 8), { ...context, lengths: Int32Array.of(1) }, layout),
    "pagedAttention",
    "sequence 0",
    "2 new",
  ],
  [
    "a page outside the cache",
    () => pagedAttention(f32(2, 16), f32(4, 8), { ...context, pages: [[1]] }, layout),
    "pagedAttention",
    "page 1",
  ],
  [
    "an MLP's norm of another width",
    () => normSwiglu(f32(2, 3), f32(4), 1e-6, f32(8, 3)),
    ...["normSwiglu", "x f32 [2, 3]", "norm f32 [4]", "[2·width, in]"],
  ],
  ["an odd number of gates and ups", () => normSwiglu(f32(2, 3), f32(3), 1e-6, f32(7, 3)), "normSwiglu", "[7, 3]"],
  ["an MLP of two dtypes", () => normSwiglu(f32(2, 3), f32(3), 1e-6, bf16(8, 3)), "normSwiglu", "weight bf16 [8, 3]"],
  [
    "a projection of other heads",
    () => qkvToCache(f32(2, 3), { ...weights, weight: f32(12, 3) }, placement, rotation, f32(4, 8)),
    ...["qkvToCache", "weight f32 [12, 3]", "width is 16"],
  ],
  [
    "a cache of other heads",
    () => qkvToCache(f32(2, 3), weights, placement, rotation, f32(4, 16)),
    ...["qkvToCache", "cache f32 [4, 16]", "2·kvHeads·headDim"],
  ],
  [
    "a bias of another dtype",
    () => qkvToCache(f32(2, 3), { ...weights, bias: bf16(16) }, placement, rotation, f32(4, 8)),
    ...["qkvToCache", "bias bf16 [16]", "one dtype"],
  ],
  [
    "a place for one token of two",
    () => qkvToCache(f32(2, 3), weights, { ...placement, rows: i32(1) }, rotation, f32(4, 8)),
    ...["qkvToCache", "rows i32 [1]", "i32 [tokens]"],
  ],
  [
    "a row outside the cache",
    () => qkvToCache(f32(2, 3), weights, { ...placement, rows: index(0, 4) }, rotation, f32(4, 8)),
    ...["setRows", "index 4"],
  ],
  [
    "query heads that share key heads unevenly",
    () => qkvToCache(f32(2, 3), weights, placement, { ...rotation, heads: 3, kvHeads: 2 }, f32(4, 16)),
    ...["qkvToCache", "3 heads over 2"],
  ],
  [
    "decoding in slots where it cannot be",
    () => slotAttention(f32(2, 16), f32(4, 8), slots, layout),
    "slotAttention",
    "cpu",
  ],
  [
    "slots with a cache of another width",
    () => slotAttention(f32(2, 16), f32(4, 9), slots, layout),
    ...["slotAttention", "cache f32 [4, 9]", "[rows, 2·kvHeads·headDim]"],
  ],
  [
    "slots of another number",
    () => slotAttention(f32(3, 16), f32(4, 8), slots, layout),
    ...["slotAttention", "x f32 [3, 16]", "2 slots"],
  ],
  [
    "logits that are not f32",
    () => sampleLogits(bf16(2, 5), { ...draws, site: i32(2, 3) }),
    ...["sampleLogits", "bf16 [2, 5]", "2 draws"],
  ],
  [
    "targets of another length",
    () => linearLogprob(f32(2, 3), f32(5, 3), i32(3)),
    "linearLogprob",
    "[2, 3]",
    "i32 [3]",
  ],
  ["a target outside the vocabulary", () => linearLogprob(f32(1, 3), f32(5, 3), index(5)), "target 5", "[0, 5)"],
  ["temperature 0", () => linearLogprob(f32(1, 3), f32(5, 3), index(0), 0), "temperature 0"],
  ["too few values", () => tensor([1, 2, 3], { backend, shape: [2, 2] }), "tensor", "3 values", "[2, 2]"],
  ["ragged nested arrays", () => tensor([[1, 2], [3], [4, 5, 6]], { backend }), "tensor", "rows"],
  [
    "host data of another type",
    () => fromHost(new Float32Array(2), { backend, dtype: "bf16", shape: [2] }),
    "bf16 [2]",
  ],
  ["assigning another size", () => f32(2).assign(f32(3)), "assign", "[3]", "[2]"],
  ["assigning another dtype", () => f32(2).assign(bf16(2)), "assign", "bf16", "f32"],
];
for (const [name, call, ...says] of mistakes) {
  test(`the message for ${name}`, (t) => {
    const { message } = t.throws(call)!;
    for (const words of says) t.true(message.includes(words), `'${message}' lacks '${words}'`);
    t.false(message.includes("\n"));
  });
}

test("item wants one element, data a tensor that lives", async (t) => {
  await t.throwsAsync(async () => f32(2).item(), { message: /item: shape \[2\] has 2 elements/ });
  const freed = f32(2);
  freed.dispose();
  await t.throwsAsync(async () => freed.data(), { message: /data: a tensor of shape \[2\] was freed/ });
});
