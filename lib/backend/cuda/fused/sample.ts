import type { ArrayRef, Draws, FusedKernels } from "../../backend.js";
import type { CudaContext } from "../context.js";

// As in kernels/sample.cu.
const COLUMNS = 256;
const PART = 4096;
const BEST_BYTES = 16;

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
      const [chunks, parts] = [Math.ceil(vocabulary / COLUMNS), Math.ceil(vocabulary / PART)];
      const [ids, logprobs] = [empty("i32", rows, "drawn tokens"), empty("f32", rows, "drawn tokens")];
      const [x, asked] = [at(logits), pack(draws)];
      const out = (storage: typeof ids) => at({ storage, offset: 0, shape: [] });
      const kernel = (entry: string, signature: string) => device.kernels.get("sample", entry, signature);
      const limitsAt = 8 * rows * chunks;
      const bestAt = Math.ceil((limitsAt + 12 * rows) / 16) * 16;
      device.withScratch(bestAt + BEST_BYTES * rows * parts, "sampling scratch", (scratch) => {
        const [limits, best] = [scratch + limitsAt, scratch + bestAt];
        device.launch(kernel("sample_chunks", "pspii"), [x, asked, scratch, vocabulary, chunks], {
          grid: [Math.ceil(chunks / 64), rows],
          block: 256,
          bytes: 4 * rows * vocabulary,
        });
        device.launch(kernel("sample_limits", "psppii"), [x, asked, scratch, limits, vocabulary, chunks], {
          grid: [rows],
          block: 1024,
        });
        device.launch(kernel("sample_draw", "psppi"), [x, asked, limits, best, vocabulary], {
          grid: [parts, rows],
          block: 256,
          bytes: 4 * rows * vocabulary,
        });
        const finish = [x, asked, limits, best, out(ids), out(logprobs), rows, vocabulary, parts];
        device.launch(kernel("sample_finish", "psppppiii"), finish, { grid: [Math.ceil(rows / 4)], block: 128 });
      });
      return { ids, logprobs };
    },

    advanceSlots(drawn, { table, lengths, pageSize }, { tokens, positions, rows, remaining, stops }) {
      const [slots, pages] = table.shape;
      const arrays = [drawn, table, stops, tokens, positions, rows, lengths, remaining].map(at);
      const fn = device.kernels.get("slots", "advance_slots", "ppppppppiii");
      device.launch(fn, [...arrays, slots, pages, pageSize], { grid: [Math.ceil(slots / 256)], block: 256 });
    },
  };
}
