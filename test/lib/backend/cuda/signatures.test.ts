import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { root } from "../../../support.js";

const folder = join(root, "lib", "backend", "cuda");

/** Letters of a signature (see lib/backend/cuda/kernels.ts) that an argument of this C type may have. */
function letterOf(parameter: string): string {
  if (parameter.includes("*")) return "p";
  const type = parameter
    .replace(/\b(const|__grid_constant__)\b/g, "")
    .trim()
    .split(/\s+/)[0];
  const letters: Record<string, string> = { int: "i", u32: "i", float: "f", i64: "l", u64: "l", Index: "[il]" };
  return letters[type] ?? "s";
}

/** Signatures that the CUDA sources ask for, as patterns, by entry. */
function declared(): Map<string, string> {
  const signatures = new Map<string, string>();
  const sources = readdirSync(join(folder, "kernels")).filter((name) => name.endsWith(".cu"));
  for (const name of sources) {
    const text = readFileSync(join(folder, "kernels", name), "utf8").replace(/\/\/.*$/gm, "");
    for (const [, entry, parameters] of text.matchAll(/extern "C" __global__[^{;]*?\b(\w+)\(([^(){}]*)\)\s*\{/g)) {
      signatures.set(entry, parameters.split(",").map(letterOf).join(""));
    }
  }
  return signatures;
}

test("kernels are launched with the arguments they take", (t) => {
  const signatures = declared();
  t.true(signatures.size > 30, `${signatures.size} kernels were found`);
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
  const checked = new Set<string>();
  for (const name of files) {
    const text = readFileSync(join(folder, name), "utf8");
    for (const [, entry, given] of text.matchAll(/"(\w+)",\s*(?=["`]((?:[pilfs]|\$\{[^}]*\})+)["`])/g)) {
      const signature = signatures.get(entry);
      if (signature === undefined) continue;
      // An index is i or l, as the size asks for.
      const letters = given.replace(/\$\{letter(\.repeat\((\d)\))?\}/g, (_, __, times = "1") =>
        "i".repeat(Number(times)),
      );
      t.regex(letters, new RegExp(`^${signature}$`), `${name}: ${entry}`);
      checked.add(entry);
    }
  }
  t.true(checked.size > 25, `${checked.size} launches were checked`);
});

/** Kernels of a file that are launched so that they may begin early and read nothing before they wait. */
const waiting: Record<string, readonly string[]> = {
  "sample.cu": ["sample_chunks", "sample_count", "sample_draw"],
  "slots.cu": ["plan_slots", "advance_slots"],
  "rmsNorm.cu": ["rms_norm"],
  "qkNorm.cu": ["qk_norm"],
  "rope.cu": ["rope", "rope_to_cache"],
  "rows.cu": ["gather_rows", "set_rows"],
  "swiglu.cu": ["swiglu"],
};

test("kernels that may begin before the one before them has ended wait before anything else", (t) => {
  for (const [file, entries] of Object.entries(waiting)) {
    const text = readFileSync(join(folder, "kernels", file), "utf8");
    for (const entry of entries) {
      const start = new RegExp(
        String.raw`__global__[^{;]*\b${entry}\([^(){}]*\) \{\s*(__shared__[^;]*;\s*)*wait_for_kernel_before\(\);`,
      );
      t.regex(text, start, `${file}: ${entry}`);
    }
  }
  // Whoever is launched so has to be in the table above.
  const sources = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter(
    (name) => name.endsWith(".ts") && name !== "overlaps.ts",
  );
  const launches = sources.flatMap((name) =>
    [...readFileSync(join(folder, name), "utf8").matchAll(/"waits"|ahead: \[\]/g)].map(() => name),
  );
  t.deepEqual(
    Object.fromEntries(
      [...new Set(launches)].sort().map((name) => [name, launches.filter((other) => other === name).length]),
    ),
    {
      ...{ "fused/pagedAttention.ts": 1, "fused/rmsNorm.ts": 3, "fused/rope.ts": 1, "fused/sample.ts": 2 },
      ...{ "fused/swiglu.ts": 1, "rows.ts": 1 },
    },
  );
});
