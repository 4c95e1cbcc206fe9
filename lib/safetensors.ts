import { randomBytes } from "node:crypto";
import { type FileHandle, open, rename, stat, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { InputError } from "./errors.js";

// The format (https://huggingface.co/docs/safetensors): u64 little-endian header length, a JSON header, then the
// tensors' bytes without gaps. The length, the JSON and every offset come from a stranger: each is checked before it is used.

/** Bytes per element of every dtype that is read and written. */
export const SAFETENSORS_BYTES = {
  F64: 8,
  I64: 8,
  U64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  U16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

/** A dtype by its name in the file. */
export type SafetensorsDtype = keyof typeof SAFETENSORS_BYTES;

/** Where one tensor lies in the file. */
export interface SafetensorsEntry {
  readonly dtype: SafetensorsDtype;
  /** Row-major; `[]` is a scalar. */
  readonly shape: readonly number[];
  /** Bytes from the start of the file. */
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** An open file: its header in memory, its tensors on disk until they are read. */
export interface SafetensorsFile extends AsyncDisposable {
  readonly path: string;
  /** By name, in the order in which the tensors lie in the file. */
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>;
  readonly metadata: Readonly<Record<string, string>>;
  /**
   * The tensor's raw little-endian bytes, in a buffer of their own (so any typed array can view them).
   * @throws InputError where the file has no such tensor, or was cut short after it was opened.
   */
  read(name: string): Promise<Uint8Array<ArrayBuffer>>;
  close(): Promise<void>;
}

/**
 * One tensor to write. A function as `data` is called when its turn comes, so that one tensor at a time is in memory.
 */
export interface SafetensorsInput {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly data: ArrayBufferView | (() => ArrayBufferView | Promise<ArrayBufferView>);
}

const METADATA = "__metadata__";
const MAX_HEADER_BYTES = 100_000_000; // The reference's bound.
const MAX_NESTING = 3; // header { tensor { shape [
const MAX_READ_BYTES = 2 ** 30; // One read(2) transfers less than 2 GiB.
const DAMAGED = "The file is damaged or incomplete: download or copy it again.";

/**
 * Opens a safetensors file and checks its whole header; tensors are read on demand.
 * @throws InputError, in one line, for a missing, truncated, malformed or lying file.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const handle = await openFile(path);
  try {
    const { size } = await handle.stat();
    const { tensors, metadata } = await readHeader(handle, size, path);
    return {
      path,
      tensors,
      metadata,
      async read(name) {
        const entry = tensors.get(name);
        if (!entry) throw new InputError(`${path}: there is no tensor "${name}". It has ${listNames(tensors.keys())}.`);
        return readBytes(handle, entry.byteOffset, entry.byteLength, path);
      },
      close: () => handle.close(),
      [Symbol.asyncDispose]: () => handle.close(),
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/**
 * Writes a safetensors file atomically: a temporary file beside it, fsync, rename. Tensors lie by falling element size,
 * then by name, as the reference writes them, so that each is aligned to its elements.
 * @throws RangeError where a name is doubled or the data does not fill the shape; nothing is left at `path` then.
 */
export async function writeSafetensors(
  path: string,
  entries: Iterable<SafetensorsInput>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const tensors = [...entries].sort(
    (a, b) => SAFETENSORS_BYTES[b.dtype] - SAFETENSORS_BYTES[a.dtype] || (a.name < b.name ? -1 : 1),
  );
  const header = encodeHeader(tensors, metadata);
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  const handle = await open(temporary, "wx");
  try {
    try {
      await writeBytes(handle, header);
      for (const tensor of tensors) {
        const data = typeof tensor.data === "function" ? await tensor.data() : tensor.data;
        const expected = byteLengthOf(tensor.shape, tensor.dtype);
        if (data.byteLength !== expected) {
          throw new RangeError(
            `tensor "${tensor.name}": ${tensor.dtype} [${tensor.shape}] takes ${expected} bytes, ` +
              `data has ${data.byteLength}`,
          );
        }
        await writeBytes(handle, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await unlink(temporary).catch(() => {});
    throw error;
  }
  await syncDirectory(dirname(path));
}

/**
 * Raw bytes of a floating-point tensor as float32 (F64 rounds to nearest). F32 bytes are viewed, not copied, where
 * aligned.
 * @throws InputError for a dtype that holds no floats.
 */
export function toFloat32(bytes: Uint8Array, dtype: SafetensorsDtype): Float32Array {
  const convert = TO_FLOAT32[dtype];
  if (!convert)
    throw new InputError(`${dtype} tensors hold no floating-point weights; expected F32, BF16, F16 or F64.`);
  const aligned = bytes.byteOffset % SAFETENSORS_BYTES[dtype] === 0 ? bytes : bytes.slice();
  return convert(aligned.buffer, aligned.byteOffset, aligned.byteLength / SAFETENSORS_BYTES[dtype]);
}

type Convert = (buffer: ArrayBufferLike, offset: number, length: number) => Float32Array;

const TO_FLOAT32: Partial<Record<SafetensorsDtype, Convert>> = {
  F32: (buffer, offset, length) => new Float32Array(buffer, offset, length),
  F64: (buffer, offset, length) => new Float32Array(new Float64Array(buffer, offset, length)),
  BF16(buffer, offset, length) {
    const halves = new Uint16Array(buffer, offset, length);
    const words = new Uint32Array(length);
    for (let i = 0; i < length; i++) words[i] = halves[i] << 16;
    return new Float32Array(words.buffer);
  },
  F16(buffer, offset, length) {
    const halves = new Uint16Array(buffer, offset, length);
    const table = halfTable();
    const values = new Float32Array(length);
    for (let i = 0; i < length; i++) values[i] = table[halves[i]];
    return values;
  },
};

let halves: Float32Array | undefined;

/** float32 of each of the 65,536 binary16 patterns. */
function halfTable(): Float32Array {
  halves ??= Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    return exponent ? sign * (1 + fraction / 1024) * 2 ** (exponent - 15) : sign * fraction * 2 ** -24;
  });
  return halves;
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    if (!(await stat(path)).isFile())
      throw new InputError(`${path}: not a file. Give the path of a .safetensors file.`);
    return await open(path, "r");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") throw new InputError(`${path}: no such file. Check the path.`);
    if (code === "EACCES" || code === "EPERM") throw new InputError(`${path}: may not be read. Check its permissions.`);
    throw error;
  }
}

async function readHeader(handle: FileHandle, size: number, path: string) {
  if (size < 8) throw new InputError(`${path}: ${size} bytes are too few for a safetensors file. ${DAMAGED}`);
  const lengthBytes = await readBytes(handle, 0, 8, path);
  const length = Number(new DataView(lengthBytes.buffer).getBigUint64(0, true));
  if (length > MAX_HEADER_BYTES || length > size - 8) {
    throw new InputError(
      `${path}: claims a header of ${length} bytes in a file of ${size}. ` +
        "It is not a safetensors file, or it is incomplete: download or copy it again.",
    );
  }
  try {
    return checkHeader(parseHeader(await readBytes(handle, 8, length, path)), 8 + length, size);
  } catch (error) {
    throw error instanceof HeaderError ? new InputError(`${path}: ${error.message}. ${error.fix}`) : error;
  }
}

/** What is wrong with a header, without the file's name, and what to do. */
class HeaderError extends Error {
  constructor(
    message: string,
    readonly fix = DAMAGED,
  ) {
    super(message);
  }
}

function parseHeader(bytes: Uint8Array): Record<string, unknown> {
  if (bytes[0] !== 0x7b) throw new HeaderError("the header does not begin with {");
  let header: Record<string, unknown>;
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    header = JSON.parse(text);
  } catch {
    throw new HeaderError("the header is not JSON");
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) throw new HeaderError(`the header has the key ${show(duplicate)} twice`);
  return header;
}

/** The first key that an object of this valid JSON text has twice: `JSON.parse` keeps the last and says nothing. */
function findDuplicateKey(json: string): string | undefined {
  const open: (Set<string> | undefined)[] = []; // The keys of each open object, undefined for an open array.
  for (let at = 0; at < json.length; at++) {
    const char = json[at];
    if (char === "{" || char === "[") {
      if (open.push(char === "{" ? new Set() : undefined) > MAX_NESTING)
        throw new HeaderError("the header nests too deep");
    } else if (char === "}" || char === "]") {
      open.pop();
    } else if (char === '"') {
      const start = at++;
      while (json[at] !== '"') at += json[at] === "\\" ? 2 : 1;
      let next = at + 1;
      while (json.charCodeAt(next) <= 0x20) next++;
      if (json[next] !== ":") continue;
      const key: string = JSON.parse(json.slice(start, at + 1));
      if (open.at(-1)?.has(key)) return key;
      open.at(-1)?.add(key);
    }
  }
  return undefined;
}

function checkHeader(header: Record<string, unknown>, dataStart: number, size: number) {
  const { [METADATA]: metadata = {}, ...rest } = header;
  if (!isRecord(metadata) || Object.values(metadata).some((value) => typeof value !== "string")) {
    throw new HeaderError(`${METADATA} is not a map from strings to strings`);
  }
  const entries = Object.entries(rest)
    .map(([name, value]) => [name, checkEntry(name, value)] as const)
    .sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);

  const tensors = new Map<string, SafetensorsEntry>();
  let end = 0;
  for (const [name, { dtype, shape, begin, end: next }] of entries) {
    if (begin !== end) {
      const what = begin > end ? "leaves a hole before" : "overlaps";
      throw new HeaderError(`tensor ${show(name)} at ${begin} ${what} the byte ${end} where the tensor before it ends`);
    }
    tensors.set(name, { dtype, shape, byteOffset: dataStart + begin, byteLength: next - begin });
    end = next;
  }
  if (dataStart + end !== size) {
    throw new HeaderError(`the header describes ${dataStart + end} bytes, the file has ${size}`);
  }
  return { tensors, metadata: metadata as Record<string, string> };
}

function checkEntry(name: string, value: unknown) {
  const at = `tensor ${show(name)}`;
  if (!isRecord(value)) throw new HeaderError(`${at} is not an object`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(SAFETENSORS_BYTES, dtype)) {
    const known = Object.keys(SAFETENSORS_BYTES).join(", ");
    throw new HeaderError(`${at} has dtype ${show(dtype)}`, `Convert it to one of ${known}.`);
  }
  if (!isSizes(shape)) throw new HeaderError(`${at} has shape ${show(shape)}, not a list of sizes`);
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw new HeaderError(`${at} has data_offsets ${show(offsets)}, not [begin, end]`);
  }
  const [begin, end] = offsets;
  const expected = byteLengthOf(shape, dtype as SafetensorsDtype);
  if (end - begin !== expected) {
    throw new HeaderError(`${at}: ${dtype} ${show(shape)} takes ${expected} bytes, its offsets span ${end - begin}`);
  }
  return { dtype: dtype as SafetensorsDtype, shape, begin, end };
}

/** NaN where the count of elements or bytes is past 2⁵³, so that it equals no length. */
function byteLengthOf(shape: readonly number[], dtype: SafetensorsDtype): number {
  let bytes: number = SAFETENSORS_BYTES[dtype];
  for (const size of shape) {
    bytes *= size;
    if (!Number.isSafeInteger(bytes)) return Number.NaN;
  }
  return bytes;
}

function encodeHeader(tensors: readonly SafetensorsInput[], metadata: Readonly<Record<string, string>>): Uint8Array {
  const header: [string, unknown][] = Object.keys(metadata).length ? [[METADATA, metadata]] : [];
  const names = new Set([METADATA]);
  let offset = 0;
  for (const { name, dtype, shape } of tensors) {
    if (names.has(name)) throw new RangeError(`the tensor name ${show(name)} is taken; give each tensor its own`);
    if (!isSizes(shape)) throw new RangeError(`tensor ${show(name)}: shape ${show(shape)} is not a list of sizes`);
    names.add(name);
    const end = offset + byteLengthOf(shape, dtype);
    header.push([name, { dtype, shape, data_offsets: [offset, end] }]);
    offset = end;
  }
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(header)));
  const length = Math.ceil(json.length / 8) * 8;
  if (length > MAX_HEADER_BYTES)
    throw new RangeError(`the header takes ${length} bytes, at most ${MAX_HEADER_BYTES} fit`);
  const bytes = new Uint8Array(8 + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(json, 8);
  return bytes;
}

async function readBytes(handle: FileHandle, position: number, length: number, path: string) {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const want = Math.min(length - done, MAX_READ_BYTES);
    const { bytesRead } = await handle.read(bytes, done, want, position + done);
    if (bytesRead === 0)
      throw new InputError(`${path}: ends at byte ${position + done}, in the middle of its data. ${DAMAGED}`);
    done += bytesRead;
  }
  return bytes;
}

async function writeBytes(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await handle.write(bytes, done, Math.min(bytes.length - done, MAX_READ_BYTES))).bytesWritten;
  }
}

/** Makes the rename itself durable, where the system lets a directory be synced (Windows does not). */
async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, "r").catch(() => undefined);
  await handle?.sync().catch(() => {});
  await handle?.close();
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

/** A stranger's value in an error message: on one line and short. */
function show(value: unknown): string {
  const text = JSON.stringify(value) ?? "none";
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

function listNames(names: Iterable<string>): string {
  const all = [...names];
  return all.length ? `${all.length}, such as ${all.slice(0, 3).map(show).join(", ")}` : "none";
}
