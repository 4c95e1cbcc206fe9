import type { IncomingMessage } from "node:http";
import { ApiError, badRequest, clientGone } from "./errors.js";
import { limits } from "./limits.js";

/** A body that is too large is read to its end, so that the client reads the answer, up to this many times the limit. */
const DISCARDED = 8;

/**
 * Reads a request's JSON body.
 * @throws ApiError where it is too large, not declared as JSON, or none.
 */
export async function readJsonBody(request: IncomingMessage): Promise<unknown> {
  const { "content-type": type = "", "content-encoding": encoding = "identity" } = request.headers;
  // A page in a browser can send other types than JSON to a server on this machine without asking it first.
  if (!/^application\/json\s*(;|$)/i.test(type)) throw new ApiError(415, "content-type must be application/json");
  if (encoding !== "identity")
    throw new ApiError(415, `content-encoding ${encoding} is not supported; send plain JSON`);
  const bytes = await readBytes(request);
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw badRequest("the body is not valid JSON in UTF-8", undefined, "invalid_json");
  }
}

async function readBytes(request: IncomingMessage): Promise<Buffer> {
  const { bodyBytes } = limits;
  const tooLarge = (headers = {}) =>
    new ApiError(413, `the body is larger than ${bodyBytes} bytes; shorten it`, { code: "body_too_large", headers });
  if (Number(request.headers["content-length"] ?? 0) > DISCARDED * bodyBytes) throw tooLarge({ connection: "close" });
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of request as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size <= bodyBytes) chunks.push(chunk);
      else chunks.length = 0;
      if (size > DISCARDED * bodyBytes) break;
    }
  } catch {
    throw clientGone();
  }
  if (size > bodyBytes) throw tooLarge();
  return Buffer.concat(chunks);
}
