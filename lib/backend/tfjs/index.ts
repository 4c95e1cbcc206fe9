import type { Backend } from "../backend.js";

export async function createTfjs(_engine?: string): Promise<Backend> {
  throw new Error("tfjs: not there yet");
}
