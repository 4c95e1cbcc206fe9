/*
 * Attention of decoding with its state on the device, where a block may have all chunks of a sequence, against that of a step which
 * the host lays out: there a block has one chunk, and another kernel merges them.
 */
import {
  Arena,
  noGrad,
  type PagedContext,
  pagedAttention,
  planSlots,
  slotAttention,
  tensor,
  zeros,
} from "../../../../lib/index.js";
import { scatteredPages } from "../../fusedCases.js";
import { largest, normals } from "../../support.js";
import { cudaTest, firstDifference, openCuda } from "./support.js";

const SLOTS = 144;
const CHUNK = 512;
/** Slots of the same length share their pages; 0 is an empty slot. */
const lengths = [1, 63, 64, 65, 511, 512, 513, 540, 1024, 0, 1025, 1600, 2047, 2048];

for (const [heads, kvHeads, headDim, pageSize] of [
  [16, 2, 128, 64],
  [14, 2, 64, 16],
  [8, 8, 64, 64],
  [6, 2, 128, 24],
]) {
  cudaTest(
    `slotAttention, ${heads}:${kvHeads} heads of ${headDim}, pages of ${pageSize}: ${SLOTS} sequences of up to four chunks have the bits of chunks that are merged`,
    async (t) => {
      const backend = await openCuda();
      const layout = { heads, kvHeads, headDim };
      const { pages, rows } = scatteredPages(lengths, pageSize);
      const width = 2 * kvHeads * headDim;
      // Rows that no token was written to hold NaN: what of them counts shows.
      const kept = new Float32Array(rows * width).fill(Number.NaN);
      lengths.forEach((length, kind) => {
        const values = normals(kind, length * width);
        for (let key = 0; key < length; key++) {
          const row = pages[kind][Math.floor(key / pageSize)] * pageSize + (key % pageSize);
          kept.set(values.subarray(key * width, (key + 1) * width), row * width);
        }
      });
      using arena = new Arena();
      const i32 = (values: readonly number[], shape = [values.length]) =>
        arena.run(() => tensor(Int32Array.from(values), { backend, dtype: "i32", shape }));
      const bf16 = (values: Float32Array | Float64Array, shape: number[]) =>
        arena.run(() => tensor(values, { backend, dtype: "bf16", shape }));
      const cache = bf16(kept, [rows, width]);
      const columns = heads * headDim + width;
      const x = bf16(normals(99, SLOTS * columns), [SLOTS, columns]);

      for (const chunks of [1, 2, 4]) {
        const kinds = lengths.flatMap((length, kind) => (length <= chunks * CHUNK ? [kind] : []));
        const kindOf = Array.from({ length: SLOTS }, (_, slot) => kinds[slot % kinds.length]);
        const known = kindOf.map((kind) => lengths[kind]);
        const most = Math.ceil((chunks * CHUNK) / pageSize);
        const table = kindOf.flatMap((kind) => Array.from({ length: most }, (_, i) => pages[kind][i] ?? -1));
        const slots = {
          lengths: i32(known),
          table: i32(table, [SLOTS, most]),
          ...{ chunks, pageSize },
          work: arena.run(() => zeros([SLOTS * (chunks + 1) * 8], { backend, dtype: "i32" })),
        };
        const context: PagedContext = {
          offsets: Int32Array.from({ length: SLOTS + 1 }, (_, slot) => slot),
          lengths: Int32Array.from(known, (length) => Math.max(1, length)),
          pages: kindOf.map((kind) => (lengths[kind] ? pages[kind] : [pages[0][0]])),
          pageSize,
        };
        const [actual, expected] = await Promise.all(
          arena
            .run(() =>
              noGrad(() => {
                planSlots(slots.lengths, slots, layout);
                return [slotAttention(x, cache, slots, layout), pagedAttention(x, cache, context, layout)];
              }),
            )
            .map((y) => y.data()),
        );
        const outputs = heads * headDim;
        known.forEach((length, slot) => {
          if (length === 0) return;
          const [one, other] = [actual, expected].map((y) => y.subarray(slot * outputs, (slot + 1) * outputs));
          t.is(firstDifference(one, other), -1, `${chunks} chunks, ${length} keys, slot ${slot}`);
          t.true(largest(one) > 0, `${chunks} chunks, ${length} keys, slot ${slot}`);
        });
      }
    },
  );
}
