import type { ServerResponse } from "node:http";
import type { ApiError } from "./errors.js";
import type { Patience } from "./limits.js";

/** Sends a whole response; a client that does not take it in time is cut off. */
export function sendJson(
  response: ServerResponse,
  status: number,
  json: object,
  { stall }: Pick<Patience, "stall">,
  headers: Readonly<Record<string, string>> = {},
): void {
  if (response.closed) return;
  const body = Buffer.from(JSON.stringify(json));
  response.writeHead(status, { ...headers, "content-type": "application/json", "content-length": body.length });
  // Node destroys the socket after this long without progress, and sets its own time when the response is through.
  response.socket?.setTimeout(stall);
  response.end(body);
}

/** Sends an error, where the response has not begun. */
export function sendError(response: ServerResponse, error: ApiError, patience: Pick<Patience, "stall">): void {
  if (response.headersSent) response.destroy();
  else sendJson(response, error.status, error.body, patience, error.headers);
}
