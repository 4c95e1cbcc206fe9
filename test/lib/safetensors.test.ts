import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import fc from "fast-check";
import { InputError } from "../../lib/errors.js";
import { openSafetensors, type SafetensorsInput, toFloat32, writeSafetensors } from "../../lib/safetensors.js";
import { fixture } from "../support.js";

let directory: string;
test.before(async () => {
  directory = await mkdtemp(join(tmpdir(), "safetensors-"));
});
test.after.always(() => rm(directory, { recursive: true, force: true }));

const entries: SafetensorsInput[] = [
  { name: "ids", dtype: "I64", shape: [2], data: new BigInt64Array([1n, -1n]) },
  { name: "weight", dtype: "F32", shape: [2, 3], data: new Float32Array([0, 1, -2, 3.5, 1e-40, Number.NaN]) },
  { name: "half", dtype: "BF16", shape: [3], data: new Uint16Array([0x3f80, 0xc000, 0x7f80]) },
  { name: "mask", dtype: "BOOL", shape: [], data: new Uint8Array([1]) },
  { name: "empty", dtype: "F32", shape: [0, 5], data: new Float32Array(0) },
];

/** A file of this header text and these data bytes. */
function fileOf(header: string | Uint8Array, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const text = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const length = new Uint8Array(new BigUint64Array([BigInt(text.length)]).buffer);
  return Buffer.concat([length, text, data]);
}

let files = 0;
async function put(bytes: Uint8Array): Promise<string> {
  const path = join(directory, `${files++}.safetensors`);
  await writeFile(path, bytes);
  return path;
}

test("what is written is read: dtype, shape, bytes, metadata", async (t) => {
  const path = join(directory, "whole.safetensors");
  await writeSafetensors(path, entries, { format: "pt", 'odd "key"': "värde\n" });
  await using file = await openSafetensors(path);
  t.deepEqual({ ...file.metadata }, { format: "pt", 'odd "key"': "värde\n" });
  t.is(file.tensors.size, entries.length);
  for (const { name, dtype, shape, data } of entries) {
    const view = data as ArrayBufferView;
    const entry = file.tensors.get(name)!;
    t.is(entry.dtype, dtype);
    t.deepEqual(entry.shape, shape);
    const bytes = await file.read(name);
    t.deepEqual(bytes, new Uint8Array(view.buffer, view.byteOffset, view.byteLength), name);
    t.is(bytes.buffer.byteLength, view.byteLength, "a buffer of its own, so that any typed array can view it");
  }
});

test("tensors lie aligned to their elements, the header to 8 bytes", async (t) => {
  const path = join(directory, "aligned.safetensors");
  await writeSafetensors(path, entries);
  const headerLength = Number((await readFile(path)).readBigUInt64LE());
  t.is(headerLength % 8, 0);
  await using file = await openSafetensors(path);
  t.deepEqual([...file.tensors.keys()], ["ids", "empty", "weight", "half", "mask"]);
  t.is([...file.tensors.values()][0].byteOffset, 8 + headerLength);
});

for (const model of ["tiny-qwen2", "tiny-qwen3", "small-qwen2-hd128"]) {
  test(`${model}: reading the reference's file and writing it again gives the same bytes`, async (t) => {
    const source = fixture(model, "model.safetensors");
    await using file = await openSafetensors(source);
    const path = join(directory, `${model}.safetensors`);
    const copies = [...file.tensors].map(([name, { dtype, shape }]) => ({
      name,
      dtype,
      shape,
      data: () => file.read(name),
    }));
    await writeSafetensors(path, copies.reverse(), file.metadata);
    t.true((await readFile(path)).equals(await readFile(source)));
  });
}

test("a tensor given as a view into a larger buffer is written alone", async (t) => {
  const path = join(directory, "view.safetensors");
  await writeSafetensors(path, [
    { name: "v", dtype: "F32", shape: [2], data: Float32Array.of(1, 2, 3, 4).subarray(1, 3) },
  ]);
  await using file = await openSafetensors(path);
  t.deepEqual(toFloat32(await file.read("v"), "F32"), Float32Array.of(2, 3));
});

test("a failed write leaves the old file and no temporary", async (t) => {
  const own = await mkdtemp(join(directory, "failed-"));
  const path = join(own, "model.safetensors");
  await writeSafetensors(path, entries);
  const before = await readFile(path);
  const data = new Float32Array(3);
  await t.throwsAsync(writeSafetensors(path, [{ name: "w", dtype: "F32", shape: [4], data }]), {
    message: /takes 16 bytes/,
  });
  await t.throwsAsync(writeSafetensors(path, [entries[0], entries[0]]), { message: /"ids" is taken/ });
  await t.throwsAsync(writeSafetensors(path, [{ name: "w", dtype: "F32", shape: [-3], data }]), { message: /\[-3\]/ });
  const refused = {
    name: "w",
    dtype: "F32",
    shape: [3],
    data: () => Promise.reject(new Error("device lost")),
  } as const;
  await t.throwsAsync(writeSafetensors(path, [refused]), { message: "device lost" });
  t.deepEqual(await readFile(path), before);
  t.deepEqual(await readdir(own), ["model.safetensors"]);
});

test("toFloat32 widens F16 and BF16 exactly and rounds F64", (t) => {
  const bytes = (data: ArrayBufferView) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const half = new Uint16Array([0x3c00, 0xc000, 0x0001, 0x03ff, 0x7bff, 0x7c00, 0xfc00, 0x7e00, 0x8000]);
  const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
  t.deepEqual(
    toFloat32(bytes(half), "F16"),
    Float32Array.of(1, -2, 2 ** -24, 1023 * 2 ** -24, 65504, inf, -inf, nan, -0),
  );
  const brain = new Uint16Array([0x3f80, 0xc0a0, 0x0001, 0xff80]);
  t.deepEqual(toFloat32(bytes(brain), "BF16"), Float32Array.of(1, -5, 2 ** -133, -inf));
  t.deepEqual(toFloat32(bytes(Float64Array.of(Math.PI, 1e300)), "F64"), Float32Array.of(Math.fround(Math.PI), inf));
  const odd = new Uint8Array(9);
  odd.set(bytes(Float32Array.of(7, 8)), 1);
  t.deepEqual(toFloat32(odd.subarray(1), "F32"), Float32Array.of(7, 8), "an unaligned view is copied");
  t.throws(() => toFloat32(odd.subarray(0, 8), "I64"), { instanceOf: InputError });
});

const header = (fields: object) => JSON.stringify({ w: { dtype: "F32", shape: [2], data_offsets: [0, 8], ...fields } });
const two = (begin: number) =>
  JSON.stringify({
    a: { dtype: "U8", shape: [4], data_offsets: [0, 4] },
    b: { dtype: "U8", shape: [4], data_offsets: [begin, begin + 4] },
  });
const eight = new Uint8Array(8);
const lies: Record<string, [Uint8Array, RegExp]> = {
  "an empty file": [new Uint8Array(0), /0 bytes are too few/],
  "a header longer than the file": [
    new Uint8Array(new BigUint64Array([1000n]).buffer),
    /claims a header of 1000 bytes/,
  ],
  "a header longer than 2⁵³": [new Uint8Array(new BigUint64Array([2n ** 64n - 1n, 0n]).buffer), /claims a header/],
  "no JSON": [fileOf("{not json"), /not JSON/],
  "a space before the header": [fileOf(" {}"), /does not begin with \{/],
  "a header of broken UTF-8": [fileOf(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d)), /not JSON/],
  "a doubled tensor": [fileOf(`{"w":1,${header({}).slice(1)}`, eight), /key "w" twice/],
  "a tensor doubled through an escape": [fileOf(`{"\\u0077":1,${header({}).slice(1)}`, eight), /key "w" twice/],
  "a doubled field": [fileOf(header({}).replace('"dtype"', '"shape" : [1], "dtype"'), eight), /key "shape" twice/],
  "deep nesting": [fileOf(`{"w":${"[".repeat(9)}${"]".repeat(9)}}`), /nests too deep/],
  "metadata that is not strings": [fileOf('{"__metadata__":{"a":1}}'), /__metadata__/],
  "a tensor that is no object": [fileOf('{"w":null}'), /"w" is not an object/],
  "an unknown dtype": [fileOf(header({ dtype: "F8_E4M3" }), eight), /dtype "F8_E4M3"\. Convert it to one of F64/],
  "a dtype named like a method": [fileOf(header({ dtype: "toString" }), eight), /dtype "toString"/],
  "a negative size": [fileOf(header({ shape: [-2] }), eight), /shape \[-2\]/],
  "a fractional size": [fileOf(header({ shape: [0.5, 4] }), eight), /shape \[0.5,4\]/],
  "a shape past 2⁵³": [fileOf(header({ shape: [2 ** 40, 2 ** 40] }), eight), /its offsets span 8/],
  "a shape that is not the bytes": [fileOf(header({ shape: [3] }), eight), /takes 12 bytes, its offsets span 8/],
  "offsets backwards": [fileOf(header({ data_offsets: [8, 0] }), eight), /data_offsets \[8,0\]/],
  "a hole": [fileOf(two(5), new Uint8Array(9)), /"b" at 5 leaves a hole/],
  "an overlap": [fileOf(two(3), new Uint8Array(7)), /"b" at 3 overlaps/],
  "bytes after the last tensor": [fileOf(header({}), new Uint8Array(9)), /describes 70 bytes, the file has 71/],
  "a truncated tensor": [fileOf(header({}), new Uint8Array(7)), /describes 70 bytes, the file has 69/],
};
for (const [what, [bytes, message]] of Object.entries(lies)) {
  test(`refused: ${what}`, async (t) => {
    const error = await t.throwsAsync(openSafetensors(await put(bytes)), { instanceOf: InputError, message });
    t.false(error.message.includes("\n"));
    t.regex(error.message, /(download or copy it again|Convert it to one of .*)\.$/);
  });
}

test("refused: a missing file, a folder, a missing tensor, a file cut while it is open", async (t) => {
  const missing = join(directory, "missing.safetensors");
  await t.throwsAsync(openSafetensors(missing), { instanceOf: InputError, message: /no such file/ });
  await t.throwsAsync(openSafetensors(directory), { instanceOf: InputError, message: /not a file/ });
  const path = join(directory, "cut.safetensors");
  await writeSafetensors(path, entries);
  await using file = await openSafetensors(path);
  await t.throwsAsync(file.read("bias"), {
    instanceOf: InputError,
    message: /no tensor "bias". It has 5, such as "ids"/,
  });
  await truncate(path, file.tensors.get("mask")!.byteOffset);
  await t.throwsAsync(file.read("mask"), { instanceOf: InputError, message: /ends at byte/ });
});

test("any mutation of a valid file is read whole or refused with an InputError", async (t) => {
  const source = join(directory, "source.safetensors");
  await writeSafetensors(source, entries, { format: "pt" });
  const valid = await readFile(source);
  const path = join(directory, "mutant.safetensors");
  const position = fc.nat(valid.length - 1);
  const mutation = fc.oneof(
    fc.record({ at: position, insert: fc.uint8Array({ maxLength: 12 }), remove: fc.nat(12) }),
    fc.record({
      at: position,
      insert: fc.constantFrom('"w"', "{", "]", "-", "9", "0", "e9", ",", "\\").map((text) => Buffer.from(text)),
      remove: fc.nat(1),
    }),
    fc.record({ at: position, insert: fc.constant(Buffer.alloc(0)), remove: fc.constant(valid.length) }),
  );
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 3 }), async (mutations) => {
      let bytes: Buffer = valid;
      for (const { at, insert, remove } of mutations) {
        bytes = Buffer.concat([bytes.subarray(0, at), insert, bytes.subarray(at + remove)]);
      }
      await writeFile(path, bytes);
      try {
        await using file = await openSafetensors(path);
        let total = 0;
        for (const name of file.tensors.keys()) total += (await file.read(name)).length;
        t.true(total <= bytes.length);
      } catch (error) {
        refused++;
        if (!(error instanceof InputError) || error.message.includes("\n")) throw error;
      }
    }),
    { numRuns: 800 },
  );
  t.true(refused > 300, "most mutations break the file");
});
