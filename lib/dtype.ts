/** Element types. `f64` exists on the cpu backend only, as the oracle that gradients and kernels are checked against. */
export type DType = "f32" | "f64" | "bf16" | "f16" | "i32" | "u32" | "u8" | "bool";

/** What holds elements on the host; bf16 and f16 are held as their bit patterns. */
export type TypedArray = Float32Array | Float64Array | Uint16Array | Int32Array | Uint32Array | Uint8Array;

interface DTypeInfo {
  readonly bytes: number;
  readonly floating: boolean;
  readonly array: new (buffer: ArrayBuffer, byteOffset?: number, length?: number) => TypedArray;
}

export const dtypes: Readonly<Record<DType, DTypeInfo>> = {
  f32: { bytes: 4, floating: true, array: Float32Array },
  f64: { bytes: 8, floating: true, array: Float64Array },
  bf16: { bytes: 2, floating: true, array: Uint16Array },
  f16: { bytes: 2, floating: true, array: Uint16Array },
  i32: { bytes: 4, floating: false, array: Int32Array },
  u32: { bytes: 4, floating: false, array: Uint32Array },
  u8: { bytes: 1, floating: false, array: Uint8Array },
  bool: { bytes: 1, floating: false, array: Uint8Array },
};

/** A new zeroed host array for `size` elements of `dtype`. */
export function hostArray(dtype: DType, size: number): TypedArray {
  return new dtypes[dtype].array(new ArrayBuffer(size * dtypes[dtype].bytes));
}

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);

/** bf16 bit pattern of a number, rounded to nearest even; NaN stays NaN. */
export function toBf16(value: number): number {
  float[0] = value;
  const u = bits[0];
  if ((u & 0x7fffffff) > 0x7f800000) return (u >>> 16) | 0x40;
  return (u + 0x7fff + ((u >>> 16) & 1)) >>> 16;
}

/** The number a bf16 bit pattern stands for. */
export function fromBf16(pattern: number): number {
  bits[0] = pattern << 16;
  return float[0];
}

/** f16 (IEEE binary16) bit pattern of a number, rounded to nearest even; overflow gives infinity. */
export function toF16(value: number): number {
  float[0] = value;
  const u = bits[0];
  const sign = (u >>> 16) & 0x8000;
  const magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal in f16: a unit is 2^-24.
    const units = Math.abs(float[0]) * 2 ** 24;
    const down = Math.floor(units);
    const rest = units - down;
    return sign | (rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

/** The number an f16 bit pattern stands for. */
export function fromF16(pattern: number): number {
  const sign = pattern & 0x8000 ? -1 : 1;
  const exponent = (pattern >>> 10) & 0x1f;
  const fraction = pattern & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

type Floats = Float32Array | Float64Array;

/** Converts numbers to what holds them in `dtype`; integers are truncated, `bool` is 0 or 1. */
export function encode(values: ArrayLike<number>, dtype: DType): TypedArray {
  const out = hostArray(dtype, values.length);
  const convert = encoders[dtype];
  if (convert) for (let i = 0; i < values.length; i++) out[i] = convert(values[i]);
  else out.set(values as Floats);
  return out;
}

/** Converts what holds elements of `dtype` to plain numbers: 16-bit floats are widened, everything else is returned as it is. */
export function decode(data: TypedArray, dtype: DType): TypedArray {
  const convert = decoders[dtype];
  if (!convert) return data;
  const out = new Float32Array(data.length);
  for (let i = 0; i < data.length; i++) out[i] = convert(data[i]);
  return out;
}

const encoders: Partial<Record<DType, (value: number) => number>> = {
  bf16: toBf16,
  f16: toF16,
  bool: (value) => (Number(value) === 0 ? 0 : 1),
};

const decoders: Partial<Record<DType, (pattern: number) => number>> = { bf16: fromBf16, f16: fromF16 };
