/**
 * Cuts a text at added tokens: strings are the text between them, numbers the ids of those found. Where several match the
 * leftmost is taken, and of those that begin there the longest.
 */
export type Splitter = (text: string) => (string | number)[];

/** A splitter at the texts of `tokens`, matched exactly. */
export function splitter(tokens: ReadonlyMap<string, number>): Splitter {
  if (tokens.size === 0) return (text) => (text === "" ? [] : [text]);
  const longestFirst = [...tokens.keys()].sort((a, b) => b.length - a.length);
  const pattern = new RegExp(longestFirst.map((token) => token.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")).join("|"), "g");
  return (text) => {
    const pieces: (string | number)[] = [];
    let start = 0;
    for (const match of text.matchAll(pattern)) {
      if (match.index > start) pieces.push(text.slice(start, match.index));
      pieces.push(tokens.get(match[0])!);
      start = match.index + match[0].length;
    }
    if (start < text.length) pieces.push(text.slice(start));
    return pieces;
  };
}
