import { createHash, type Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { appendFile, open, rename, rm, stat } from "node:fs/promises";
import { dirname, join, normalize, sep } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import type { ListFileEntry } from "@huggingface/hub";
import { InputError } from "../lib/errors.js";
import { makeFolders } from "../lib/files.js";

export interface DownloadOptions {
  readonly type: "dataset" | "model";
  /** Owner and name, as in `Qwen/Qwen2.5-0.5B-Instruct`. */
  readonly repo: string;
  /** Branch, tag or commit. Default `main`. */
  readonly revision?: string;
  /** Where the files go, under the paths that they have in the repository. */
  readonly folder: string;
  /** Which files to take, by their path. */
  readonly wants: (path: string) => boolean;
  /** Called with each file once it is there, in order; what it throws ends the download. */
  readonly onFile?: (path: string) => void | Promise<void>;
  readonly onProgress?: (progress: DownloadProgress) => void;
  /** Default: `HF_TOKEN` of the environment. */
  readonly token?: string;
  /** Default: `HF_ENDPOINT` of the environment, or the Hub itself. */
  readonly hubUrl?: string;
  /** How often in a row an attempt may bring nothing before it is given up. Default 4. */
  readonly retries?: number;
}

export interface DownloadProgress {
  readonly file: string;
  /** Bytes of all files that are here, and of all that shall be. */
  readonly bytes: number;
  readonly total: number;
}

type Hub = typeof import("@huggingface/hub");
interface Connection {
  readonly hub: Hub;
  readonly hubUrl: string;
  readonly accessToken?: string;
}

/**
 * Downloads files of a repository of the Hugging Face Hub, smallest first, each checked against the hash that the Hub
 * lists (SHA-256 of large files, git's SHA-1 of small ones). What has arrived of a file stays in `FILE.HASH.part` until
 * it is whole, so that the next call goes on from there; files that are here and right are not fetched again.
 * @returns the paths of the files, in the order of their names.
 * @throws InputError where the repository cannot be had, has no such file, or sends something else than it lists.
 */
export async function downloadRepo(options: DownloadOptions): Promise<string[]> {
  const { folder, wants, onFile, onProgress } = options;
  if (!/^\w[\w.-]*(\/\w[\w.-]*)?$/.test(options.repo)) {
    throw new InputError(`'${options.repo}' is no repository of the Hub; give OWNER/NAME`);
  }
  const connection: Connection = {
    hub: await import("@huggingface/hub"),
    hubUrl: checkedUrl(options.hubUrl ?? process.env.HF_ENDPOINT ?? "https://huggingface.co"),
    accessToken: checkedToken(options.token ?? process.env.HF_TOKEN),
  };
  const listed = await listRepo(options, connection);
  const files = listed.filter(({ type, path }) => type === "file" && wants(path)).sort((a, b) => a.size - b.size);
  if (files.length === 0) {
    throw new InputError(`${options.repo}: none of its ${listed.length} files is of use; is it the right repository?`);
  }
  const total = files.reduce((sum, { size }) => sum + size, 0);
  let done = 0;
  for (const file of files) {
    const target = targetOf(folder, file.path);
    const report = (here: number) => onProgress?.({ file: file.path, bytes: done + here, total });
    if (!(await isWhole(target, file))) await fetchWhole(file, target, { options, connection, report });
    done += file.size;
    report(0);
    await onFile?.(file.path);
  }
  return files.map(({ path }) => join(folder, path)).sort();
}

function checkedUrl(url: string): string {
  if (URL.canParse(url) && /^https?:/.test(url)) return url.replace(/\/+$/, "");
  throw new InputError(`HF_ENDPOINT is '${url}'; give an address such as https://huggingface.co`);
}

function checkedToken(token: string | undefined): string | undefined {
  if (!token || /^hf_\S+$/.test(token)) return token || undefined;
  throw new InputError("HF_TOKEN is no access token of the Hub, which begins with hf_; correct it or take it away");
}

async function listRepo(options: DownloadOptions, { hub, ...access }: Connection): Promise<ListFileEntry[]> {
  const repo = { type: options.type, name: options.repo };
  return retrying(options, access.hubUrl, async () => {
    const files: ListFileEntry[] = [];
    const entries = hub.listFiles({ repo, revision: options.revision, recursive: true, ...access });
    for await (const file of entries) files.push(file);
    return files;
  });
}

/**
 * Does something again while that may help, and longer the more often in a row it brought nothing.
 * @param here how much has been brought
 */
async function retrying<T>(
  { repo, retries = 4 }: DownloadOptions,
  hubUrl: string,
  attempt: () => Promise<T>,
  here: () => number | Promise<number> = () => 0,
): Promise<T> {
  for (let left = retries; ; left--) {
    const before = await here();
    try {
      return await attempt();
    } catch (error) {
      if ((await here()) > before) left = retries;
      if (left <= 0 || !mayPass(error)) throw explain(error, repo, hubUrl);
      await wait(250 * 2 ** Math.min(5, retries - left));
    }
  }
}

/** A path that a server names must not lead out of the folder. */
function targetOf(folder: string, path: string): string {
  const inside = normalize(path);
  if (inside.startsWith("..") || inside.startsWith(sep) || /^[a-z]:/i.test(inside)) {
    throw new InputError(`the repository lists a file '${path}', which lies outside it; do not use it`);
  }
  return join(folder, inside);
}

interface Fetch {
  readonly options: DownloadOptions;
  readonly connection: Connection;
  readonly report: (bytes: number) => void;
}

async function fetchWhole(file: ListFileEntry, target: string, fetch: Fetch): Promise<void> {
  const part = `${target}.${(file.lfs?.oid ?? file.oid ?? "").slice(0, 12)}.part`;
  const attempt = async () => {
    await makeFolders(dirname(target));
    await fetchRest(file, part, fetch);
  };
  await retrying(fetch.options, fetch.connection.hubUrl, attempt, () => sizeOf(part));
  if (!(await isWhole(part, file))) {
    await rm(part, { force: true });
    throw new InputError(`${file.path}: arrived with another checksum than the Hub lists; run the command again`);
  }
  await rename(part, target);
}

async function fetchRest(file: ListFileEntry, part: string, { options, connection, report }: Fetch): Promise<void> {
  const { hub, ...access } = connection;
  let here = await sizeOf(part);
  if (here > file.size) {
    await rm(part);
    here = 0;
  }
  report(here);
  if (here === file.size) return here === 0 ? appendFile(part, "") : undefined;
  // Without Xet's own protocol: the plain address can be asked for a range.
  const repo = { type: options.type, name: options.repo };
  const blob = await hub.downloadFile({ repo, path: file.path, revision: options.revision, xet: false, ...access });
  if (!blob) throw new InputError(`${file.path}: is listed but not there; run the command again`);
  const output = await open(part, "a");
  try {
    for await (const chunk of blob.slice(here, file.size).stream()) {
      await output.write(chunk);
      here += chunk.length;
      report(here);
    }
  } finally {
    await output.close();
  }
  if (here < file.size) throw new BrokenOff(`${file.path}: broke off after ${here} of ${file.size} bytes`);
}

class BrokenOff extends Error {}

async function sizeOf(path: string): Promise<number> {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() ? found.size : 0;
}

/** Whether the file is there with the bytes that the Hub lists. */
async function isWhole(path: string, { size, oid, lfs }: ListFileEntry): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile() || found.size !== size) return false;
  if (lfs) return (await digest(path, createHash("sha256"))) === lfs.oid;
  return (await digest(path, createHash("sha1").update(`blob ${size}\0`))) === oid;
}

async function digest(path: string, hash: Hash): Promise<string> {
  for await (const chunk of createReadStream(path)) hash.update(chunk);
  return hash.digest("hex");
}

/** Whether another attempt may help: the connection broke, or the server is overloaded. */
function mayPass(error: unknown): boolean {
  const { statusCode } = told(error);
  if (statusCode !== undefined) return statusCode >= 500 || statusCode === 429;
  return typeof error === "string" || error instanceof BrokenOff || (error as Error | undefined)?.cause !== undefined;
}

/** What an error tells: the answer's status, or the file system's code. A broken stream rejects with a bare string. */
function told(error: unknown): { statusCode?: number; code?: string } {
  const { statusCode, code } = (error ?? {}) as { statusCode?: number; code?: unknown };
  return { statusCode, code: typeof code === "string" && /^E[A-Z]+$/.test(code) ? code : undefined };
}

function explain(error: unknown, repo: string, hubUrl: string): InputError {
  if (error instanceof InputError) return error;
  const { statusCode, code } = told(error);
  const message = error instanceof Error ? error.message : String(error);
  if (code) return new InputError(`${repo}: cannot be written (${message}); make room or choose another folder`);
  const { host } = new URL(hubUrl);
  const byStatus: Readonly<Record<number, string>> = {
    401: "needs a login, or is not there; check the name, or set HF_TOKEN to an access token",
    403: "may not be read with this access; accept its terms on the Hub and set HF_TOKEN to an access token",
    404: `is not at ${host}; check the name and the revision`,
    429: `${host} has had too many requests; wait and run the command again`,
  };
  if (statusCode !== undefined) {
    return new InputError(
      `${repo}: ${byStatus[statusCode] ?? `${host} answers ${statusCode}; run the command again later`}`,
    );
  }
  const cause = (error as Error)?.cause;
  const why = cause instanceof Error ? cause.message : message;
  return new InputError(`${repo}: cannot be had from ${host} (${why}); check the network and run the command again`);
}
