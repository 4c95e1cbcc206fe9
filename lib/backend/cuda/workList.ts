import type { CudaDevice } from "./device.js";
import type { Block } from "./heap.js";

/** A list of work, on the host and on the device. */
export interface WorkList {
  readonly address: number;
  readonly words: Int32Array;
}

/** Makes the list that goes with `key` under `name` and uploads it, or finds the one that was made before. */
export type WorkLists = (key: object, name: string, make: () => Int32Array) => WorkList;

/** Lists kept on the device: those of one batch, forward and backward. */
const KEPT = 4;

/**
 * Work lists of packed batches, uploaded once for all layers and forgotten when others take their place. `key` (offsets, or
 * what else describes the batch) must not change after its first use.
 */
export function workLists(device: CudaDevice): WorkLists {
  const kept: { key: object; name: string; list: WorkList; block: Block }[] = [];
  return (key, name, make) => {
    const at = kept.findIndex((entry) => entry.key === key && entry.name === name);
    if (at >= 0) {
      // To the end, so that a list is never the next to go while a launch asks for a second one.
      kept.push(...kept.splice(at, 1));
      return kept.at(-1)!.list;
    }
    if (kept.length === KEPT) device.giveBytes(kept.shift()!.block);
    const words = make();
    const block = device.takeBytes(words.byteLength, "work list");
    device.copyIn(block.address, words);
    const list = { address: block.address, words };
    kept.push({ key, name, list, block });
    return list;
  };
}
