import type { CudaDevice } from "./device.js";
import type { Block } from "./heap.js";

/** An i32 array on the device. */
export interface DeviceInts {
  readonly address: number;
  readonly length: number;
}

/** Makes the i32 array that goes with `offsets` under `key`, or finds the one that was made before. */
export type WorkLists = (offsets: Int32Array, key: string, build: () => Int32Array) => DeviceInts;

/** Lists kept on the device; the layers of a step share theirs. */
const KEPT = 4;

/** Work lists of packed batches, uploaded once for all layers and forgotten when others take their place. */
export function workLists(device: CudaDevice): WorkLists {
  const kept: { offsets: Int32Array; key: string; list: DeviceInts; block: Block }[] = [];
  return (offsets, key, build) => {
    const known = kept.find((entry) => entry.offsets === offsets && entry.key === key);
    if (known) return known.list;
    if (kept.length === KEPT) device.giveBytes(kept.shift()!.block);
    const values = build();
    const block = device.takeBytes(values.byteLength, "work list");
    device.copyIn(block.address, values);
    const list = { address: block.address, length: values.length };
    kept.push({ offsets, key, list, block });
    return list;
  };
}
