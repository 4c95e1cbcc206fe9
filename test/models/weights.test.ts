import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import {
  createCpu,
  InputError,
  openSafetensors,
  type SafetensorsInput,
  tensor,
  writeSafetensors,
} from "../../lib/index.js";
import { huggingFaceViews, loadQwen, parameterSpecs, type Qwen, saveQwen, score } from "../../models/index.js";
import { fixture } from "../support.js";
import { temporaryFolder } from "../temporary.js";
import { fixtureModels, maxDifference } from "./fixtures.js";
import { tinyConfig, tinyModel, tinyQwen2, valuesOf } from "./tiny.js";

const backend = createCpu({ poison: true });

/** Every tensor of a file by name, as it is stored. */
async function readAll(path: string) {
  await using file = await openSafetensors(path);
  const entries = new Map<string, SafetensorsInput & { data: Uint8Array }>();
  for (const [name, { dtype, shape }] of file.tensors)
    entries.set(name, { name, dtype, shape, data: await file.read(name) });
  return entries;
}

/** The parameters' bytes as the backend stores them. */
async function stored({ parameters, backend }: Qwen): Promise<Map<string, unknown>> {
  const entries = [...parameters].map(async ([name, value]) => [name, await backend.download(value)] as const);
  return new Map(await Promise.all(entries));
}

for (const [what, config] of [
  ["Qwen3, head of its own", tinyConfig],
  ["Qwen2, tied head", tinyQwen2],
] as const) {
  for (const dtype of ["f32", "bf16"] as const) {
    test(`${what}, ${dtype}: saved and loaded, every byte is as before`, async (t) => {
      const directory = temporaryFolder(t);
      const model = tinyModel({ config, dtype, backend });
      await saveQwen(model, directory);
      const loaded = await loadQwen(directory, { backend, dtype });
      t.deepEqual(await stored(loaded), await stored(model));
      t.deepEqual(loaded.config, { ...config, dtype: dtype === "f32" ? "float32" : "bfloat16" });
      t.true([...loaded.parameters.values()].every(({ requiresGrad }) => requiresGrad));
      await using file = await openSafetensors(join(directory, "model.safetensors"));
      t.is(file.tensors.has("lm_head.weight"), !config.tieWordEmbeddings);
    });
  }
}

for (const name of fixtureModels) {
  test(`${name}: loaded and saved, the file holds the same tensors`, async (t) => {
    const directory = temporaryFolder(t);
    await saveQwen(await loadQwen(fixture(name), { backend }), directory);
    const [saved, original] = await Promise.all(
      [directory, fixture(name)].map((path) => readAll(join(path, "model.safetensors"))),
    );
    t.is(saved.size, original.size);
    for (const [tensor, { dtype, shape, data }] of original) {
      t.deepEqual([saved.get(tensor)!.dtype, saved.get(tensor)!.shape], [dtype, shape], tensor);
      t.is(Buffer.compare(saved.get(tensor)!.data, data), 0, tensor);
    }
  });
}

test("bfloat16 weights load as they are or widened, float32 ones round to the nearest", async (t) => {
  const directory = temporaryFolder(t);
  const narrow = tinyModel({ dtype: "bf16", backend });
  await saveQwen(narrow, directory);
  const widened = await loadQwen(directory, { backend });
  t.deepEqual(await valuesOf(widened.parameters), await valuesOf(narrow.parameters));

  const exact = await loadQwen(fixture("tiny-qwen3"), { backend });
  const rounded = await loadQwen(fixture("tiny-qwen3"), { backend, dtype: "bf16" });
  for (const [name, parameter] of rounded.parameters) {
    t.is(parameter.dtype, "bf16");
    const before = await exact.parameters.get(name)!.data();
    (await parameter.data()).forEach((value, i) => {
      if (!(Math.abs(value - before[i]) <= 2 ** -8 * Math.abs(before[i]))) t.fail(`${name}[${i}]`);
    });
  }
  const sequence = [[5, 9, 14, 3, 8, 21, 2, 30]];
  const [a, b] = [await score(rounded, sequence), await score(exact, sequence)];
  t.true(maxDifference(a.logprobs[0], b.logprobs[0]) < 0.05);
});

test("a folder of shards with an index loads as the whole does", async (t) => {
  const directory = temporaryFolder(t);
  await cp(fixture("tiny-qwen3", "config.json"), join(directory, "config.json"));
  const entries = [...(await readAll(fixture("tiny-qwen3", "model.safetensors"))).values()];
  const shards = [entries.filter((_, i) => i % 3 === 0), entries.filter((_, i) => i % 3 !== 0)];
  const names = shards.map((_, i) => `model-0000${i + 1}-of-00002.safetensors`);
  await Promise.all(shards.map((shard, i) => writeSafetensors(join(directory, names[i]), shard)));
  const map = Object.fromEntries(shards.flatMap((shard, i) => shard.map(({ name }) => [name, names[i]])));
  await writeFile(join(directory, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map: map }));
  const [whole, sharded] = await Promise.all(
    [fixture("tiny-qwen3"), directory].map((path) => loadQwen(path, { backend })),
  );
  t.deepEqual(await stored(sharded), await stored(whole));
});

test("a model saved over a folder of shards is the one that is loaded", async (t) => {
  const directory = temporaryFolder(t);
  await writeFile(join(directory, "model.safetensors.index.json"), JSON.stringify(mapTo("old.safetensors")));
  const model = tinyModel({ backend });
  await saveQwen(model, directory);
  t.deepEqual(await stored(await loadQwen(directory, { backend })), await stored(model));
});

test("Hugging Face's names are views of the fused parameters, and follow them", async (t) => {
  const { config, parameters } = tinyModel({ config: tinyQwen2, backend });
  const views = huggingFaceViews(config, parameters);
  const fused = parameters.get("model.layers.1.self_attn.qkv_proj.weight")!;
  const v = views.get("model.layers.1.self_attn.v_proj.weight")!;
  t.is(v.storage, fused.storage);
  t.deepEqual(v.shape, [8, 16]);
  for (const { name, parts } of parameterSpecs(config)) {
    for (const part of parts) t.is(views.get(part.name)!.storage, parameters.get(name)!.storage, part.name);
  }
  fused.assign(
    tensor(
      Float32Array.from({ length: 32 * 16 }, (_, i) => i),
      { backend, shape: [32, 16] },
    ),
  );
  t.deepEqual(
    [...(await v.data())],
    Array.from({ length: 8 * 16 }, (_, i) => 24 * 16 + i),
  );
});

/** What may be wrong with a folder, and what the error must say. */
const damages: Record<string, readonly [damage: (directory: string) => Promise<unknown>, message: RegExp]> = {
  "no folder": [(directory) => rm(directory, { recursive: true }), /no such folder; give a Hugging Face model folder/],
  "a file in its place": [
    async (directory) => {
      await rm(directory, { recursive: true });
      await writeFile(directory, "");
    },
    /no such folder/,
  ],
  "no config": [(directory) => rm(join(directory, "config.json")), /config\.json: cannot be read .*needs it/],
  "a config that is no JSON": [
    (directory) => writeFile(join(directory, "config.json"), '{"model_type": '),
    /config\.json: not valid JSON .*download it again/,
  ],
  "a config that is null": [(directory) => writeFile(join(directory, "config.json"), "null"), /config\.json/],
  "no weights": [(directory) => rm(join(directory, "model.safetensors")), /model\.safetensors: no such file/],
  "empty weights": [(directory) => writeFile(join(directory, "model.safetensors"), ""), /too few/],
  "cut inside the header": [(directory) => cut(directory, (size) => Math.min(100, size)), /claims a header of/],
  "cut inside the data": [(directory) => cut(directory, (size) => size - 1), /the header describes \d+ bytes/],
  "a header longer than the file": [
    (directory) =>
      edit(directory, (bytes) => new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(0, 2n ** 62n, true)),
    /claims a header of/,
  ],
  "offsets that overlap": [
    (directory) => editHeader(directory, (json) => json.replace(/"data_offsets":\[(\d+),/, '"data_offsets":[4,')),
    /data_offsets|offsets span|overlaps|hole/,
  ],
  "a shape that is not the data's": [
    (directory) => editHeader(directory, (json) => json.replace(/"shape":\[\d/, '"shape":[9')),
    /takes \d+ bytes, its offsets span/,
  ],
  "a tensor missing": [
    (directory) =>
      rewrite(directory, (entries) => entries.filter(({ name }) => !name.endsWith("1.mlp.up_proj.weight"))),
    /the weights lack model\.layers\.1\.mlp\.up_proj\.weight/,
  ],
  "a head missing where the config unties it": [
    (directory) => configure(directory, { tie_word_embeddings: false }, "lm_head.weight"),
    /the weights lack lm_head\.weight/,
  ],
  "a tensor of another shape": [
    (directory) => rewrite(directory, ([first, ...rest]) => [{ ...first, shape: [...first.shape, 1] }, ...rest]),
    /has shape \[.*\], but its config\.json asks for \[/,
  ],
  "weights that are integers": [
    (directory) =>
      rewrite(directory, (entries) =>
        entries.map((entry) => (entry.dtype === "F32" ? { ...entry, dtype: "I32" } : entry)),
      ),
    /is I32.*F32, BF16, F16/,
  ],
  "another architecture": [
    (directory) => configure(directory, { model_type: "llama" }),
    /model_type is "llama"; give a dense Qwen2, Qwen2\.5 or Qwen3 model/,
  ],
  "rope scaling": [
    (directory) => configure(directory, { rope_scaling: { rope_type: "yarn", factor: 4 } }),
    /rope_scaling asks for rope scaling .* not supported/,
  ],
  "a sliding window": [
    (directory) => configure(directory, { use_sliding_window: true, sliding_window: 32 }),
    /use_sliding_window asks for sliding-window attention/,
  ],
  "an index that leaves the folder": [
    (directory) => index(directory, mapTo("../evil.safetensors")),
    /names '\.\.\/evil/,
  ],
  "an index with an absolute path": [(directory) => index(directory, mapTo("/etc/passwd")), /names '\/etc\/passwd'/],
  "an index of a shard that is not there": [
    (directory) => index(directory, mapTo("model-00001-of-00001.safetensors")),
    /model-00001-of-00001\.safetensors: no such file/,
  ],
  "an index that is null": [(directory) => index(directory, null), /index\.json: .*weight_map/],
  "an index whose map is a list": [
    (directory) => index(directory, { weight_map: [1, 2] }),
    /index\.json: .*weight_map/,
  ],
  "a generation config that is null": [
    (directory) => writeFile(join(directory, "generation_config.json"), "null"),
    /generation_config\.json: .*eos_token_id/,
  ],
  "an end-of-sequence id beyond the vocabulary": [
    (directory) => writeFile(join(directory, "generation_config.json"), '{"eos_token_id": 1000000}'),
    /generation_config\.json: eos_token_id is 1000000, but the model has \d+ token ids; correct it/,
  ],
  "an end-of-sequence id that is a word": [
    (directory) => writeFile(join(directory, "generation_config.json"), '{"eos_token_id": "</s>"}'),
    /generation_config\.json: .*eos_token_id/,
  ],
};

for (const [what, [damage, message]] of Object.entries(damages)) {
  test(`${what}: refused in one line that names the folder`, async (t) => {
    const directory = temporaryFolder(t);
    await saveQwen(tinyModel(), directory);
    await damage(directory);
    const backend = createCpu();
    const error = await t.throwsAsync(loadQwen(directory, { backend }), { instanceOf: InputError, message });
    t.true(error!.message.includes(directory), error!.message);
    t.notRegex(error!.message, /\n/);
    t.is(backend.memory().bytes, 0, "what was loaded before is freed");
  });
}

const weights = (directory: string) => join(directory, "model.safetensors");

async function edit(directory: string, change: (bytes: Buffer) => unknown): Promise<void> {
  const bytes = await readFile(weights(directory));
  change(bytes);
  await writeFile(weights(directory), bytes);
}

async function cut(directory: string, length: (size: number) => number): Promise<void> {
  const bytes = await readFile(weights(directory));
  await writeFile(weights(directory), bytes.subarray(0, length(bytes.length)));
}

/** Changes the header in place: the new text may be shorter, never longer. */
async function editHeader(directory: string, change: (json: string) => string): Promise<void> {
  await edit(directory, (bytes) => {
    const length = Number(bytes.readBigUInt64LE(0));
    const json = bytes.toString("utf8", 8, 8 + length);
    bytes.write(change(json).trimEnd().padEnd(length), 8);
  });
}

async function rewrite(
  directory: string,
  change: (entries: SafetensorsInput[]) => readonly SafetensorsInput[],
): Promise<void> {
  await writeSafetensors(weights(directory), change([...(await readAll(weights(directory))).values()]));
}

async function configure(directory: string, values: object, without?: string): Promise<void> {
  const path = join(directory, "config.json");
  await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, "utf8")), ...values }));
  if (without) await rewrite(directory, (entries) => entries.filter(({ name }) => name !== without));
}

const mapTo = (file: string) => ({ weight_map: { "model.embed_tokens.weight": file } });

/** Puts an index in the place of the weights. */
async function index(directory: string, json: unknown): Promise<void> {
  await rm(weights(directory));
  await writeFile(join(directory, "model.safetensors.index.json"), JSON.stringify(json));
}
