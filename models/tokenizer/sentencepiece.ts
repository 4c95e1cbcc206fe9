import { join } from "node:path";
import type { SentencePieceProcessor } from "sentencepiece-js";
import { InputError } from "../../lib/errors.js";
import { type Splitter, splitter } from "./addedTokens.js";
import { readTokenizerConfig, type TokenizerFiles, writeTokenizerFiles } from "./files.js";
import type { Tokenizer, TokenizerConfig } from "./tokenizer.js";

/** Types of pieces, from sentencepiece_model.proto. */
const NORMAL = 1;
const CONTROL = 3;
const BYTE = 6;

/** How pieces spell a blank. */
const BLANK = "\u2581";

const utf8 = new TextEncoder();

/** SentencePiece (`tokenizer.model`) through `sentencepiece-js`; only control pieces are special tokens. */
class SentencePieceTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly specialTokens: ReadonlyMap<string, number>;
  readonly config: TokenizerConfig;
  readonly #files: TokenizerFiles;
  readonly #processor: SentencePieceProcessor;
  readonly #splitSpecial: Splitter;
  readonly #controls: ReadonlyMap<number, string>;
  /** The byte of each piece such as `<0xE2>`. */
  readonly #byteIds: ReadonlyMap<number, number>;
  /** A piece that can stand before another. */
  readonly #before: number;

  constructor(pieces: readonly Piece[], processor: SentencePieceProcessor, files: TokenizerFiles) {
    const controls = pieces.flatMap(({ text, type }, id): [string, number][] => (type === CONTROL ? [[text, id]] : []));
    this.vocabSize = pieces.length;
    this.specialTokens = new Map(controls);
    this.config = readTokenizerConfig(files);
    this.#files = files;
    this.#processor = processor;
    this.#splitSpecial = splitter(this.specialTokens);
    this.#controls = new Map(controls.map(([text, id]) => [id, text]));
    this.#byteIds = new Map(
      pieces.flatMap(({ text, type }, id): [number, number][] =>
        type === BYTE ? [[id, Number(text.slice(1, -1))]] : [],
      ),
    );
    this.#before = pieces.findIndex(({ text, type }) => type === NORMAL && text !== BLANK);
  }

  /** SentencePiece puts its word boundary before each stretch of text between special tokens. */
  encode(text: string, { specialTokens = false }: { specialTokens?: boolean } = {}): number[] {
    const wellFormed = text.replace(/[\ud800-\udfff]/gu, "\ufffd");
    if (!specialTokens) return this.#processor.encodeIds(wellFormed);
    return this.#splitSpecial(wellFormed).flatMap((piece) =>
      typeof piece === "number" ? piece : this.#processor.encodeIds(piece),
    );
  }

  decode(ids: Iterable<number>, { specialTokens = false }: { specialTokens?: boolean } = {}): string {
    const plain: number[] = [];
    let text = "";
    for (const id of ids) {
      const control = this.#controls.get(id);
      if (control === undefined) {
        if (id >= 0 && id < this.vocabSize) plain.push(id);
      } else if (specialTokens) {
        text += this.#processor.decodeIds(plain.splice(0)) + control;
      }
    }
    return text + this.#processor.decodeIds(plain);
  }

  bytes(id: number, { first = false }: { first?: boolean } = {}): Uint8Array {
    if (!(id >= 0 && id < this.vocabSize) || this.#controls.has(id)) return new Uint8Array();
    const byte = this.#byteIds.get(id);
    if (byte !== undefined) return Uint8Array.of(byte);
    if (first || this.#before < 0) return utf8.encode(this.#processor.decodeIds([id]));
    const before = this.#processor.decodeIds([this.#before]);
    return utf8.encode(this.#processor.decodeIds([this.#before, id]).slice(before.length));
  }

  save(directory: string): Promise<void> {
    return writeTokenizerFiles(this.#files, directory);
  }
}

/** @throws InputError when tokenizer.model is no SentencePiece model. */
export async function sentencePieceTokenizer(files: TokenizerFiles): Promise<Tokenizer> {
  const path = join(files.directory, "tokenizer.model");
  const broken = (why: string) => new InputError(`${path}: not a SentencePiece model (${why}); download it again`);
  const pieces = readPieces(files.contents.get("tokenizer.model")!, broken);
  const processor = await loadProcessor(path);
  const status = processor.processor.status();
  const message = status.ToString();
  status.delete();
  if (message !== "OK") throw broken(message);
  return new SentencePieceTokenizer(pieces, processor, files);
}

/** Loads the model; takes away the process-wide handlers that the package's Emscripten runtime installs. */
async function loadProcessor(path: string): Promise<SentencePieceProcessor> {
  const { SentencePieceProcessor } = await import("sentencepiece-js");
  const events = ["uncaughtException", "unhandledRejection"];
  const before = new Set(events.flatMap((event) => process.listeners(event as "exit")));
  const processor = new SentencePieceProcessor();
  await processor.load(path);
  for (const event of events) {
    for (const listener of process.listeners(event as "exit")) {
      if (!before.has(listener)) process.removeListener(event, listener);
    }
  }
  return processor;
}

interface Piece {
  readonly text: string;
  readonly type: number;
}

/** The vocabulary of a ModelProto: its field 1, messages of text (1), score (2) and type (3, NORMAL = 1 by default). */
function readPieces(bytes: Uint8Array, broken: (why: string) => InputError): Piece[] {
  return [...fields(bytes, broken)]
    .filter(({ field, value }) => field === 1 && typeof value === "object")
    .map(({ value }) => {
      const piece = { text: "", type: 1 };
      for (const { field, value: part } of fields(value as Uint8Array, broken)) {
        if (field === 1 && typeof part === "object") piece.text = new TextDecoder().decode(part);
        if (field === 3 && typeof part === "number") piece.type = part;
      }
      return piece;
    });
}

/** Fields of a protocol buffer: numbers of wire type 0, bytes of the others. */
function* fields(bytes: Uint8Array, broken: (why: string) => InputError) {
  let i = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[i++];
      if (byte === undefined || scale > 2 ** 63) throw broken("cut off");
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
  };
  while (i < bytes.length) {
    const tag = varint();
    const field = Math.floor(tag / 8);
    const wire = tag % 8;
    if (wire === 0) {
      yield { field, value: varint() };
      continue;
    }
    const length = wire === 1 ? 8 : wire === 5 ? 4 : wire === 2 ? varint() : Number.NaN;
    if (!(i + length <= bytes.length)) throw broken(`bad field at byte ${i}`);
    yield { field, value: bytes.subarray(i, i + length) };
    i += length;
  }
}
