import { createHash } from "node:crypto";
import { closeSync, ftruncateSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
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
  const file = openSync(path, "a+");
  const places = new Map<string, readonly [start: number, bytes: number]>();
  let end = 0;
  const note = ({ key, fault }: ReplyRecord, bytes: number) => {
    if (!fault) places.set(key, [end, bytes]);
    end += bytes;
  };
  const written = readFileSync(path);
  for (let next = written.indexOf(NEWLINE); next >= 0; next = written.indexOf(NEWLINE, end)) {
    note(JSON.parse(written.toString("utf8", end, next)), next + 1 - end);
  }
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

const NEWLINE = 0x0a;
