import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { InputError } from "../../lib/errors.js";
import { writeWhole } from "../../lib/files.js";
import type { TokenizerConfig } from "./tokenizer.js";

/** The files of a tokenizer by name, with the folder that they came from for error messages. */
export interface TokenizerFiles {
  readonly directory: string;
  readonly contents: ReadonlyMap<string, Uint8Array>;
}

const NAMES = [
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
];

/** Those of a tokenizer's files that a Hugging Face model folder has. */
export async function readTokenizerFiles(directory: string): Promise<TokenizerFiles> {
  const found = await stat(directory).catch(() => undefined);
  if (!found?.isDirectory()) throw new InputError(`${directory}: no such folder; give the path of a model folder`);
  const contents = new Map<string, Uint8Array>();
  for (const name of NAMES) {
    try {
      contents.set(name, await readFile(join(directory, name)));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
        throw new InputError(`${join(directory, name)}: cannot be read (${oneLine(error)})`);
      }
    }
  }
  return { directory, contents };
}

export async function writeTokenizerFiles(files: TokenizerFiles, directory: string): Promise<void> {
  for (const [name, content] of files.contents) await writeWhole(join(directory, name), content);
}

/** Files of a tokenizer that was made here: its tokenizer.json and, where `config` says anything, tokenizer_config.json. */
export function newTokenizerFiles(tokenizerJson: object, config: TokenizerConfig): TokenizerFiles {
  const bytes = (value: object) => new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
  const contents = new Map([["tokenizer.json", bytes(tokenizerJson)]]);
  const configJson: Record<string, unknown> = {
    tokenizer_class: "PreTrainedTokenizerFast",
    clean_up_tokenization_spaces: false,
    bos_token: config.bosToken ?? null,
    eos_token: config.eosToken ?? null,
    pad_token: config.padToken ?? null,
    unk_token: config.unkToken ?? null,
  };
  if (config.chatTemplate !== undefined) configJson.chat_template = config.chatTemplate;
  contents.set("tokenizer_config.json", bytes(configJson));
  return { directory: "new tokenizer", contents };
}

/** Entries of added_tokens for special tokens with ids from `firstId` on. */
export function newSpecialTokens(contents: readonly string[], firstId: number): object[] {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return contents.map((content, i) => ({ id: firstId + i, content, ...flags }));
}

/** The JSON object in a file. @throws InputError when it is absent or broken. */
export function readJson(files: TokenizerFiles, name: string): Record<string, unknown> {
  const path = join(files.directory, name);
  const content = files.contents.get(name);
  if (content === undefined) throw new InputError(`${path}: no such file`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder().decode(content));
  } catch (error) {
    throw new InputError(`${path}: not valid JSON (${oneLine(error)}); download it again`);
  }
  if (!isObject(value)) throw new InputError(`${path}: not a JSON object`);
  return value;
}

/** An error's message without line breaks. */
export function oneLine(error: unknown): string {
  return (error as Error).message.replace(/\s+/g, " ");
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** What tokenizer_config.json and chat_template.jinja say; the latter wins, as in transformers. */
export function readTokenizerConfig(files: TokenizerFiles): TokenizerConfig {
  const json = files.contents.has("tokenizer_config.json") ? readJson(files, "tokenizer_config.json") : {};
  const jinja = files.contents.get("chat_template.jinja");
  const token = (key: string) => {
    const value = isObject(json[key]) ? json[key].content : json[key];
    return typeof value === "string" ? value : undefined;
  };
  return {
    chatTemplate: jinja === undefined ? defaultTemplate(json.chat_template) : new TextDecoder().decode(jinja),
    bosToken: token("bos_token"),
    eosToken: token("eos_token"),
    padToken: token("pad_token"),
    unkToken: token("unk_token"),
  };
}

/** A chat_template is one template, or a list of `{ name, template }` of which "default" is meant. */
function defaultTemplate(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  const entries = Array.isArray(value) ? value.filter(isObject) : [];
  const template = entries.find((entry) => entry.name === "default")?.template;
  return typeof template === "string" ? template : undefined;
}
