/**
 * What every tokenizer does. Ids are dense in [0, vocabSize).
 *
 * Text from users, simulators and tools is encoded with special tokens off (the default), so that nobody can smuggle a
 * control token into a conversation by typing it.
 */
export interface Tokenizer {
  /** Number of ids, added tokens included. */
  readonly vocabSize: number;
  /** Special (control) tokens by their text, such as `<|im_end|>`. */
  readonly specialTokens: ReadonlyMap<string, number>;
  /** Ids of `text`. With `specialTokens: true` the text of a special token becomes its id instead of plain characters. */
  encode(text: string, options?: { specialTokens?: boolean }): number[];
  /** Text of `ids`; bytes that are not UTF-8 become U+FFFD. Special tokens are left out unless `specialTokens: true`. */
  decode(ids: Iterable<number>, options?: { specialTokens?: boolean }): string;
  /** Writes the tokenizer's files into a Hugging Face model folder. */
  save(directory: string): Promise<void>;
}
