import koffi from "koffi";

// CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
const OVERLAPS = 6;

/** A CUlaunchConfig with the attribute that lets a kernel begin before the one before it has ended. */
export class OverlappingLaunch {
  readonly #config = new Uint8Array(56);
  readonly #view = new DataView(this.#config.buffer);

  constructor() {
    const attribute = Number(koffi.alloc("uint8_t", 72));
    const words = new Uint32Array(koffi.view(attribute, 72)).fill(0);
    words[0] = OVERLAPS;
    words[2] = 1;
    this.#view.setBigUint64(40, BigInt(attribute), true);
    this.#view.setUint32(48, 1, true);
  }

  with(x: number, y: number, z: number, block: number, shared: number, stream: number): Uint8Array {
    [x, y, z, block, 1, 1, shared].forEach((word, i) => {
      this.#view.setUint32(4 * i, word, true);
    });
    this.#view.setBigUint64(32, BigInt(stream), true);
    return this.#config;
  }
}
