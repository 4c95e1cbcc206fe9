/** The part of the untyped package that is used here. */
declare module "sentencepiece-js" {
  export class SentencePieceProcessor {
    /** Emscripten's object; absent before `load`. */
    processor: { status(): { ToString(): string; delete(): void } };
    load(path: string): Promise<void>;
    encodeIds(text: string): number[];
    decodeIds(ids: number[]): string;
  }
}
