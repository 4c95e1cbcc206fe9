import type { CudaDevice } from "./device.js";

/** Enqueues a copy of `bytes` from one device address to another. */
export function copyBytes({ driver, stream, overlaps }: CudaDevice, to: number, from: number, bytes: number): void {
  overlaps.other();
  driver.memcpyDtoD(to, from, bytes, stream);
}

/** Enqueues the setting of `bytes` to zero. */
export function clearBytes(device: CudaDevice, address: number, bytes: number): void {
  fillElements(device, address, 0, { bytes: 1, count: bytes });
}

/** Enqueues the setting of `count` elements of 1, 2 or 4 `bytes` to `bits`. */
export function fillElements(
  { driver, stream, overlaps }: CudaDevice,
  address: number,
  bits: number,
  { bytes, count }: { readonly bytes: number; readonly count: number },
): void {
  overlaps.other();
  const set = bytes === 1 ? driver.memsetD8 : bytes === 2 ? driver.memsetD16 : driver.memsetD32;
  set(address, bits, count, stream);
}
