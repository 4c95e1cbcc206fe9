import type { ArrayRef, FusedKernels, HeadLayout, PagedContext, Storage } from "../../backend.js";
import type { CudaContext } from "../context.js";
import type { Launch } from "../device.js";
import type { Kernel } from "../kernels.js";
import { type Overlap, rangeOf } from "../overlaps.js";
import type { WorkLists } from "../workList.js";
import { type AttentionVariant, attentionVariants, type Item, variantShape } from "./attentionPlain.js";
import { hopperChunks } from "./pagedAttentionHopper.js";

/** Keys whose partial result stands alone, as in kernels/attentionTile.cuh. */
const CHUNK = 512;
/** Flat rows of a block that does one chunk with tensor cores, and up to how many rows a sequence is cut into such. */
const FEW_ROWS = 16;
const FEW = 64;
/** Compute capabilities with room for four pieces in flight in a block's shared memory. */
export const DEEP = new Set([80, 87, 90, 100, 103]);

/** Shared memory of paged_mma_chunk: q, keys and values on their way, probabilities with statistics, cache rows. */
export function chunkBytes(headDim: number, stages: number): number {
  return (FEW_ROWS + stages * (64 + 64)) * headDim * 2 + FEW_ROWS * (2 * CHUNK + 96) + 4 * CHUNK;
}

/** How many items of each kind an uploaded plan has. */
interface Plan {
  readonly whole: number;
  readonly chunks: number;
  readonly merges: number;
  /** Partial results that the chunks leave. */
  readonly slots: number;
  /** Of each sequence at most, where items are numbered chunk by chunk and not sequence by sequence. */
  readonly chunksOfEach?: number;
}

/** The items of a step, in the order whole tiles, single chunks, merges; then the pages of all sequences. */
function makePlan(context: PagedContext, group: number, { mma, rows }: AttentionVariant): [Plan, Int32Array] {
  const { offsets, lengths, pages, pageSize } = context;
  const [whole, chunks, merges]: [Item[], Item[], Item[]] = [[], [], []];
  const pageList: number[] = [];
  let slots = 0;
  for (let s = 0; s < lengths.length; s++) {
    const news = offsets[s + 1] - offsets[s];
    if (news === 0) continue;
    const [first, flats] = [lengths[s] - news, news * group];
    const few = flats <= (mma ? FEW : rows);
    const step = mma && few ? FEW_ROWS : rows;
    for (let flat = 0; flat < flats; flat += step) {
      const item = (chunk: number, slot: number): Item => [
        ...([offsets[s], first, flat, flats] as const),
        ...([pageList.length, chunk, slot, 0] as const),
      ];
      const last = first + Math.floor((Math.min(flat + step, flats) - 1) / group);
      const count = Math.floor(last / CHUNK) + 1;
      if (!few) whole.push(item(-1, -1));
      else if (count === 1) chunks.push(item(0, -1));
      else {
        merges.push(item(count, slots));
        for (let chunk = 0; chunk < count; chunk++) chunks.push(item(chunk, slots++));
      }
    }
    for (let page = 0; page * pageSize < lengths[s]; page++) pageList.push(pages[s][page]);
  }
  const end = ([, first, flat]: Item) => first + flat / group;
  whole.sort((a, b) => end(b) - end(a));
  const plan = { whole: whole.length, chunks: chunks.length, merges: merges.length, slots };
  return [plan, Int32Array.from([...[whole, chunks, merges].flat(2), ...pageList])];
}

/**
 * Attention to a paged cache by kernels/pagedAttention.cu. A row gets the bits that `attentionPlain` gives it, however the
 * batch is made up.
 */
export function pagedAttentionKernel(
  { device, empty }: CudaContext,
  lists: WorkLists,
): Pick<FusedKernels, "pagedAttention" | "takesSlots" | "planSlots" | "slotAttention"> {
  const variantOf = attentionVariants(device);
  const plans = new WeakMap<Int32Array, Plan>();
  const whole = (storage: Storage) => device.address({ storage, offset: 0, shape: [] });

  const enqueue = (
    x: ArrayRef,
    cache: ArrayRef,
    layout: HeadLayout,
    plan: Plan,
    at: { readonly items: number; readonly pages: number; readonly pageSize: number },
    y: Storage,
  ): void => {
    const { heads, kvHeads, headDim } = layout;
    const variant = variantOf(x, layout);
    const { mma, rows, block, shared, scales, kernel } = variant;
    const [first, second, third] = [0, plan.whole, plan.whole + plan.chunks].map((item) => at.items + 32 * item);
    const from = [device.address(x), device.address(cache), at.pages, at.pageSize];
    const shape = [heads, kvHeads, ...scales];
    const run = (fn: Kernel, args: readonly number[], items: number, bytes = 0, overlaps?: Launch["overlaps"]) =>
      device.launch(fn, args, { grid: [items, kvHeads], block, shared: bytes, overlaps });

    const scratchBytes = plan.slots * 4 * kvHeads * (mma ? FEW_ROWS : rows) * (headDim + 2);
    // Before their turn chunks read what the plan says, and keys that are there for long.
    const overlaps = (partial: number): Overlap => ({
      writes: [rangeOf(device, y), { address: partial, bytes: scratchBytes }],
      ahead: [
        { address: at.items, bytes: 32 * (plan.whole + plan.chunks + plan.merges) },
        { address: at.pages, bytes: 4 },
      ],
    });

    const plain = (partial: number) => {
      const fn = kernel("pagedAttention", "paged_plain", "pppipiifpp", shared);
      run(fn, [...from, first, ...shape, whole(y), partial], plan.whole + plan.chunks, shared);
      if (plan.merges === 0) return;
      const merge = kernel("pagedAttention", "paged_plain_merge", "ppiip");
      run(merge, [partial, third, heads, kvHeads, whole(y)], plan.merges);
    };

    const tensorCores = (partial: number) => {
      if (plan.whole > 0) {
        const fn = kernel("pagedAttention", "paged_mma", "pppipiiffp", shared, { STAGES: 2 });
        run(fn, [...from, first, ...shape, whole(y)], plan.whole, shared);
      }
      if (plan.chunks === 0) return;
      const { chunks: count, chunksOfEach } = plan;
      const work = { x: from[0], cache, pages: at.pages, pageSize: at.pageSize, items: second, count, chunksOfEach };
      const results = hopperChunks(device, variant, layout, {
        ...work,
        y: whole(y),
        partial,
        overlaps: overlaps(partial),
      });
      if (results === undefined) {
        const STAGES = count * kvHeads <= device.multiprocessors && DEEP.has(device.capability) ? 4 : 2;
        const bytes = chunkBytes(headDim, STAGES);
        const fn = kernel("pagedAttention", "paged_mma_chunk", "pppipiiffpp", bytes, { STAGES });
        run(fn, [...from, second, ...shape, whole(y), partial], count, bytes, overlaps(partial));
      }
      if (plan.merges === 0 || results === "merged") return;
      const merge = kernel("pagedAttention", "paged_mma_merge", "ppiiffp", 0, { STAGES: 2 });
      const grid = [plan.merges, kvHeads, FEW_ROWS / 4] as const;
      device.launch(merge, [partial, third, ...shape, whole(y)], { grid, block, overlaps: overlaps(partial) });
    };

    device.withScratch(scratchBytes, "pagedAttention scratch", mma ? tensorCores : plain);
  };

  return {
    /**
     * x [tokens, (heads + 2·kvHeads)·headDim], cache [rows, 2·kvHeads·headDim] → [tokens, heads·headDim]. The layers of a
     * step share one upload of `context`, which must not change after its first use.
     */
    pagedAttention(x, cache, context, layout) {
      const { heads, kvHeads, headDim } = layout;
      const y = empty(x.storage.dtype, x.shape[0] * heads * headDim, "pagedAttention");
      const variant = variantOf(x, layout);
      const { mma, rows } = variant;
      const group = heads / kvHeads;
      const list = lists(context, `${mma} ${rows} ${group}`, () => {
        const [plan, words] = makePlan(context, group, variant);
        plans.set(words, plan);
        return words;
      });
      const plan = plans.get(list.words)!;
      const pages = list.address + 32 * (plan.whole + plan.chunks + plan.merges);
      enqueue(x, cache, layout, plan, { items: list.address, pages, pageSize: context.pageSize }, y);
      return y;
    },

    takesSlots: (dtype, { heads, kvHeads, headDim }) =>
      dtype === "bf16" && variantShape(dtype, headDim).mma && heads / kvHeads <= FEW_ROWS,

    planSlots({ lengths, table, chunks, work }, { heads, kvHeads }) {
      const [slots, pages] = table.shape;
      const fn = device.kernels.get("slots", "plan_slots", "ppiiii");
      const args = [device.address(lengths), device.address(work), slots, chunks, heads / kvHeads, pages];
      device.launch(fn, args, { grid: [Math.ceil((slots * chunks) / 256)], block: 256, overlaps: "waits" });
    },

    slotAttention(x, cache, { table, chunks, work, pageSize }, layout) {
      const [slots] = table.shape;
      const { mma, rows } = variantOf(x, layout);
      const [group, most] = [layout.heads / layout.kvHeads, mma ? FEW_ROWS : rows];
      if (group > most) {
        throw new Error(
          `slotAttention: ${group} query heads share a key head; decoding on cuda is made for up to ${most}`,
        );
      }
      const y = empty(x.storage.dtype, slots * layout.heads * layout.headDim, "pagedAttention");
      const many = chunks > 1;
      const [merges, partials] = many ? [slots, slots * chunks] : [0, 0];
      const plan = { whole: 0, chunks: slots * chunks, merges, slots: partials, chunksOfEach: chunks };
      const at = { items: device.address(work), pages: device.address(table), pageSize };
      enqueue(x, cache, layout, plan, at, y);
      return y;
    },
  };
}
