import { createHash } from "node:crypto";
import { closeSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs";
import { InputError } from "../../lib/errors.js";
import type { CallFault } from "./callError.js";
import type { ChatCall } from "./chatModel.js";

/** The file's name inside a run's folder. */
export const REPLIES_FILE = "replies.jsonl";

/** One reply as it came. */
export interface ReplyRecord {
  /** Of model, messages and sampling, by `replyKey`. */
  readonly key: string;
  readonly role: string;
  /** What was asked, in words. */
  readonly about: string;
  readonly text: string;
  readonly seconds: number;
  /** Why it could not be used; such a reply is kept for people only. */
  readonly fault?: CallFault;
  readonly reason?: string;
}

/** Replies that were given, on disk; in memory only where each stands. */
export interface Replies {
  /** The usable reply to a call, if there was one. */
  get(key: string): string | undefined;
  keep(record: ReplyRecord): void;
  close(): void;
}

/** Names a call: the same for the same model, messages, sampling and schema. */
export function replyKey(model: string, { messages, sampling, schema }: ChatCall): string {
  const { temperature, topP, maxTokens, seed } = sampling;
  const content = [model, messages.map(({ role, content }) => [role, content]), temperature, topP, maxTokens];
  return createHash("sha256")
    .update(JSON.stringify([...content, seed, schema ?? null]))
    .digest("hex")
    .slice(0, 32);
}

/** Opens a file of replies, which a killed process may have left with a torn last line. */
export function openReplies(path: string): Replies {
  const file = openFile(path);
  const places = new Map<string, readonly [start: number, bytes: number]>();
  let end = 0;
  const note = ({ key, fault }: ReplyRecord, bytes: number) => {
    if (!fault) places.set(key, [end, bytes]);
    end += bytes;
  };
  for (const line of wholeLines(file)) note(parseRecord(line, path), line.length + 1);
  ftruncateSync(file, end);
  return {
    get(key) {
      const place = places.get(key);
      if (!place) return undefined;
      const bytes = Buffer.alloc(place[1]);
      readSync(file, bytes, 0, place[1], place[0]);
      return (JSON.parse(bytes.toString("utf8")) as ReplyRecord).text;
    },
    keep(record) {
      const line = Buffer.from(`${JSON.stringify(record)}\n`);
      writeSync(file, line);
      note(record, line.length);
    },
    close: () => closeSync(file),
  };
}

function openFile(path: string): number {
  try {
    return openSync(path, "a+");
  } catch (error) {
    throw new InputError(`${path}: cannot be opened (${(error as Error).message}); mend it or take it away`);
  }
}

const NEWLINE = 0x0a;
const CHUNK = 2 ** 20;

/** The lines of an open file that end in a line feed, without it; however large the file. */
function* wholeLines(file: number): Generator<Buffer> {
  const chunk = Buffer.alloc(CHUNK);
  let rest = Buffer.alloc(0);
  for (let at = 0; ; ) {
    const bytes = readSync(file, chunk, 0, CHUNK, at);
    if (bytes === 0) return;
    at += bytes;
    rest = Buffer.concat([rest, chunk.subarray(0, bytes)]);
    let start = 0;
    for (let next = rest.indexOf(NEWLINE); next >= 0; next = rest.indexOf(NEWLINE, start)) {
      yield rest.subarray(start, next);
      start = next + 1;
    }
    rest = rest.subarray(start);
  }
}

function parseRecord(line: Buffer, path: string): ReplyRecord {
  try {
    const record: ReplyRecord = JSON.parse(line.toString("utf8"));
    if (typeof record.key === "string" && typeof record.text === "string") return record;
  } catch {}
  throw new InputError(`${path}: has a line that is no reply; remove the line, or the file`);
}
