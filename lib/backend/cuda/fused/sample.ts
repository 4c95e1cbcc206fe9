import type { ArrayRef, Draws, FusedKernels } from "../../backend.js";
import type { CudaContext } from "../context.js";
import type { Launch } from "../device.js";

// As in kernels/sample.cu.
const COLUMNS = 256;
const ROUNDS = 3;
const HISTOGRAM = ROUNDS * 2048;
const ROW_BYTES = 56;

/** Columns that a block of sample_count takes: a histogram is cleared and added for each, so as many as leave no multiprocessor idle. */
function countedTogether(rows: number, vocabulary: number, multiprocessors: number): number {
  let part = 2048;
  while (part < 16384 && rows * Math.ceil(vocabulary / (2 * part)) >= 4 * multiprocessors) part *= 2;
  return part;
}

/** Columns that a block of sample_draw takes: few where there are few rows, so that no multiprocessor is idle. */
function partDrawn(rows: number, vocabulary: number, multiprocessors: number): number {
  return rows * Math.ceil(vocabulary / 4096) < multiprocessors ? 1024 : 4096;
}

/** Drawing tokens by kernels/sample.cu, and the state of slots between steps by kernels/slots.cu. */
export function sampleKernels({ device, empty }: CudaContext): Pick<FusedKernels, "sampleLogits" | "advanceSlots"> {
  const at = (x: ArrayRef) => device.address(x);

  /** The struct Draws of the kernels. */
  const pack = (draws: Draws): Uint8Array => {
    const arrays = [draws.temperature, draws.topP, draws.minP, draws.topK, draws.site, draws.positions];
    const words = new BigUint64Array([...arrays.map((x) => BigInt(at(x))), 0n]);
    const bytes = new Uint8Array(words.buffer);
    new Uint32Array(words.buffer).set(draws.key, 2 * arrays.length);
    return bytes;
  };

  return {
    sampleLogits(logits, draws) {
      const [rows, vocabulary] = logits.shape;
      const PART = partDrawn(rows, vocabulary, device.multiprocessors);
      const [chunks, parts] = [Math.ceil(vocabulary / COLUMNS), Math.ceil(vocabulary / PART)];
      const drawn = empty("i32", 2 * rows, "drawn tokens");
      const ids = at({ storage: drawn, offset: 0, shape: [] });
      const [x, asked] = [at(logits), pack(draws)];
      const run = (
        entry: string,
        signature: string,
        args: (number | Uint8Array)[],
        grid: Launch["grid"],
        block: number,
      ) =>
        device.launch(device.kernels.get("sample", entry, signature, { PART }), args, {
          grid,
          block,
          overlaps: "waits",
          bytes: 4 * rows * vocabulary,
        });
      const sizes = [
        12 * rows * chunks,
        ROW_BYTES * rows,
        8 * rows * HISTOGRAM,
        4 * rows * HISTOGRAM,
        16 * rows * parts,
      ];
      const places = sizes.map((_, i) => sizes.slice(0, i).reduce((sum, bytes) => sum + 16 * Math.ceil(bytes / 16), 0));
      device.withScratch(places.at(-1)! + sizes.at(-1)!, "sampling scratch", (scratch) => {
        const part = countedTogether(rows, vocabulary, device.multiprocessors);
        const [pieces, known, masses, counts, best] = places.map((place) => scratch + place);
        const histograms = [known, masses, counts];
        const first = [x, asked, pieces, ...histograms, vocabulary, chunks];
        run("sample_chunks", "psppppii", first, [Math.ceil(chunks / 32), rows], 128);
        for (let round = 0; round < ROUNDS; round++) {
          const counted = [x, asked, pieces, ...histograms, vocabulary, chunks, part, round];
          run("sample_count", "psppppiiii", counted, [Math.ceil(vocabulary / part), rows], 256);
        }
        const drawing = [x, asked, pieces, known, best, ids, ids + 4 * rows, vocabulary, chunks];
        run("sample_draw", "pspppppii", drawing, [parts, rows], 256);
      });
      return drawn;
    },

    advanceSlots(drawn, { table, lengths, pageSize }, { tokens, positions, rows, remaining, stops }) {
      const [slots, pages] = table.shape;
      const arrays = [drawn, table, stops, tokens, positions, rows, lengths, remaining].map(at);
      const fn = device.kernels.get("slots", "advance_slots", "ppppppppiii");
      device.launch(fn, [...arrays, slots, pages, pageSize], {
        grid: [Math.ceil(slots / 256)],
        block: 256,
        overlaps: "waits",
      });
    },
  };
}
