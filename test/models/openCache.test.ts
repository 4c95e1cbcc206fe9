import test from "ava";
import { createCpu } from "../../lib/index.js";
import { initializeParameters, openCache, Qwen } from "../../models/index.js";
import { tinyConfig } from "./tiny.js";

const modelOf = (dtype: "f32" | "bf16") =>
  new Qwen(tinyConfig, initializeParameters(tinyConfig, { backend: createCpu(), seed: 1, dtype }));

test("a cache has pages for all sequences, or for as many as its memory holds, and for one at least", (t) => {
  const { layers, kvHeads, headDim } = tinyConfig;
  const pageBytes = layers * 2 * kvHeads * headDim * 8 * 4;
  const pages = (cacheGiB: number, dtype: "f32" | "bf16" = "f32") =>
    openCache(modelOf(dtype), { sequences: 3, tokens: 20, pageSize: 8, cacheGiB }).options.pages;
  t.is(pages(1), 9);
  t.is(pages((5.5 * pageBytes) / 2 ** 30), 5);
  t.is(pages((2.6 * pageBytes) / 2 ** 30, "bf16"), 5);
  t.is(pages(0), 3);
});
