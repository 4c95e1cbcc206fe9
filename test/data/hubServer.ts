import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { ExecutionContext } from "ava";

/** A repository as the Hub serves it, and what goes wrong on the way. */
export interface HubOptions {
  /** `datasets/OWNER/NAME` or `OWNER/NAME`. */
  readonly repo: string;
  readonly files: Readonly<Record<string, Uint8Array>>;
  /** Files that are listed with a SHA-256, as large files are, and served from another address. */
  readonly large?: readonly string[];
  /** Answers a request itself, and says so. */
  readonly meddle?: (request: IncomingMessage, response: ServerResponse) => boolean;
  /** Cuts the connection after so many bytes of each answer with contents. */
  readonly cutAfter?: number;
  readonly bytesPerTick?: number;
}

export interface HubServer {
  readonly url: string;
  /** The ranges of contents that were asked for. */
  readonly ranges: { readonly path: string; readonly from: number; readonly sent: number }[];
  /** Headers of the requests, in order. */
  readonly authorizations: (string | undefined)[];
}

/** A server with one repository, in the form of the Hub's API, for as long as the test runs. */
export async function hubServer(t: ExecutionContext, options: HubOptions): Promise<HubServer> {
  const { repo, files, large = [], meddle } = options;
  const ranges: { path: string; from: number; sent: number }[] = [];
  const authorizations: (string | undefined)[] = [];
  const entries = Object.entries(files).map(([path, bytes]) => {
    const sha1 = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    const lfs = large.includes(path) ? { lfs: { oid: sha256, size: bytes.length, pointerSize: 130 } } : {};
    return { type: "file", path, size: bytes.length, oid: sha1, ...lfs };
  });
  const tree = new RegExp(`^/api/${repo.startsWith("datasets/") ? "" : "models/"}${repo}/tree/main$`);

  const server = createServer((request, response) => {
    authorizations.push(request.headers.authorization);
    if (meddle?.(request, response)) return;
    const { pathname, searchParams } = new URL(request.url!, "http://hub");
    if (tree.test(pathname)) {
      // Two pages, as for a large repository.
      const half = Math.ceil(entries.length / 2);
      const isSecond = searchParams.has("cursor");
      const next = `<${url}${pathname}?${searchParams}&cursor=2>; rel="next"`;
      response.writeHead(200, { "Content-Type": "application/json", ...(isSecond ? {} : { Link: next }) });
      return response.end(JSON.stringify(isSecond ? entries.slice(half) : entries.slice(0, half)));
    }
    const path = decodeURIComponent(pathname.replace(`/${repo}/resolve/main/`, "").replace(/^\/cdn\//, ""));
    const bytes = files[path];
    if (!bytes) {
      response.writeHead(404, { "X-Error-Code": pathname.startsWith(`/${repo}/`) ? "EntryNotFound" : "RepoNotFound" });
      return response.end();
    }
    if (large.includes(path) && !pathname.startsWith("/cdn/")) {
      const entry = entries.find((each) => each.path === path)!;
      response.writeHead(302, { Location: `${url}/cdn/${path}`, "X-Linked-ETag": `"${entry.oid}"` });
      return response.end();
    }
    sendRange(request, response, path, bytes);
  });

  function sendRange(request: IncomingMessage, response: ServerResponse, path: string, bytes: Uint8Array): void {
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
    const [start, end] =
      from === undefined ? [0, bytes.length] : [Number(from), Math.min(Number(to) + 1, bytes.length)];
    const isProbe = from === "0" && to === "0";
    response.writeHead(from === undefined ? 200 : 206, {
      ETag: '"1"',
      "Content-Length": end - start,
      ...(from === undefined ? {} : { "Content-Range": `bytes ${start}-${end - 1}/${bytes.length}` }),
    });
    const range = { path, from: start, sent: 0 };
    if (!isProbe) ranges.push(range);
    const { cutAfter = Number.POSITIVE_INFINITY, bytesPerTick = 65_536 } = options;
    const send = () => {
      if (response.destroyed) return;
      const piece = bytes.subarray(
        start + range.sent,
        Math.min(end, start + range.sent + bytesPerTick, start + cutAfter),
      );
      range.sent += piece.length;
      if (start + range.sent >= end) return void response.end(piece);
      response.write(piece);
      if (range.sent >= cutAfter) setTimeout(() => response.destroy(), 20);
      else setTimeout(send, 1);
    };
    send();
  }

  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url, ranges, authorizations };
}
