/**
 * What every tokenizer does. Ids are in [0, vocabSize).
 *
 * Text from users, simulators and tools is encoded with special tokens off (the default), so that nobody can smuggle a
 * control token into a conversation by typing it.
 */
export interface Tokenizer {
  /** Number of ids, added tokens included. */
  readonly vocabSize: number;
  /** Special (control) tokens by their text, such as `<|im_end|>`. */
  readonly specialTokens: ReadonlyMap<string, number>;
  /** What the model folder says about the tokenizer's use. */
  readonly config: TokenizerConfig;
  /**
   * Ids of `text`; nothing is added at its ends. With `specialTokens: true` the text of a special token becomes its id
   * instead of plain characters. Added tokens that are not special (Qwen's `<tool_call>`, `<think>`) are always matched,
   * as in Hugging Face's `tokenizers`. Lone surrogates count as U+FFFD.
   */
  encode(text: string, options?: { specialTokens?: boolean }): number[];
  /**
   * Text of `ids`; bytes that are not UTF-8 become U+FFFD, ids without a token nothing. Special tokens are left out
   * unless `specialTokens: true`.
   */
  decode(ids: Iterable<number>, options?: { specialTokens?: boolean }): string;
  /**
   * UTF-8 bytes that a token adds to decoded text, which may begin and end inside a character; none for special tokens and
   * ids without a token. `first` is whether no text stands before it: word-level and SentencePiece put no blank there.
   */
  bytes(id: number, options?: { first?: boolean }): Uint8Array;
  /** Writes the tokenizer's files into a Hugging Face model folder. */
  save(directory: string): Promise<void>;
}

/** The part of tokenizer_config.json that matters here; tokens by their text. */
export interface TokenizerConfig {
  /** Jinja template of a conversation. */
  readonly chatTemplate?: string;
  readonly bosToken?: string;
  readonly eosToken?: string;
  readonly padToken?: string;
  readonly unkToken?: string;
}
