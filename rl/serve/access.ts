import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { isIPv4 } from "node:net";
import { InputError } from "../../lib/index.js";
import { ApiError } from "./errors.js";

/** Whether only this machine reaches a server that listens there. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIPv4(host) && host.startsWith("127."));
}

/** @throws InputError where others could reach the server and no key keeps them out. */
export function checkExposure(host: string, apiKey: string | undefined): void {
  if (apiKey === "") throw new InputError("the API key is empty; give some characters, or none of --api-key");
  if (apiKey !== undefined || isLoopback(host)) return;
  throw new InputError(
    `--host ${host} can be reached from other machines; set an API key with ITPO_API_KEY or --api-key, or use 127.0.0.1`,
  );
}

/** Who may ask: refuses requests without the key or, where there is none, those that come by another name than loopback. */
export function gatekeeper(apiKey: string | undefined): (request: IncomingMessage) => void {
  if (apiKey === undefined) return refuseForeignNames;
  const expected = digest(apiKey);
  return ({ headers }) => {
    const given = /^Bearer +(.+)$/i.exec(headers.authorization ?? "")?.[1];
    // Digests have one length, so that the comparison's time tells nothing of the key.
    if (given !== undefined && timingSafeEqual(digest(given), expected)) return;
    throw new ApiError(401, "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'", {
      type: "authentication_error",
      code: "invalid_api_key",
      headers: { "www-authenticate": "Bearer", connection: "close" },
    });
  };
}

/** A page of another site can have its own name point to this machine; its requests still carry that name. */
function refuseForeignNames({ headers }: IncomingMessage): void {
  const name = (headers.host ?? "").replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1");
  if (isLoopback(name)) return;
  throw new ApiError(403, "without an API key the server answers requests to localhost only", {
    type: "permission_error",
    headers: { connection: "close" },
  });
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
