import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { type AddressInfo, isIPv6 } from "node:net";
import type { Duplex } from "node:stream";
import { InputError } from "../../lib/index.js";
import { watchLoopDelay } from "../loopDelay.js";
import { checkExposure, gatekeeper } from "./access.js";
import type { Service } from "./answers.js";
import { readJsonBody } from "./body.js";
import { type Call, chatCompletions } from "./completions.js";
import type { Engine } from "./engine.js";
import { ApiError, asApiError, clientGone, shuttingDown } from "./errors.js";
import { defaultPatience, type Patience } from "./limits.js";
import { Places } from "./places.js";
import { sendError, sendJson } from "./reply.js";
import { unixTime } from "./responses.js";

export interface ServerOptions {
  readonly engine: Engine;
  /** The name under which the model is offered. */
  readonly model: string;
  /** Default 127.0.0.1; any but a loopback address needs an API key. */
  readonly host?: string;
  /** Default 8000; 0 takes any that is free. */
  readonly port?: number;
  readonly apiKey?: string;
  /** Most requests that wait for a place in the batch. Default 256. */
  readonly maxQueue?: number;
  /** Most tokens of an answer whose request does not say. Default 1024. */
  readonly maxTokens?: number;
  /** Most seconds that the answers to a request may take once they have their places; what is drawn by then is the answer. */
  readonly maxSeconds?: number;
  readonly patience?: Partial<Patience>;
}

/** A server that listens. */
export interface RunningServer {
  readonly url: string;
  /**
   * Ends it: takes no more requests, lets those in flight finish for `grace` milliseconds and cuts the rest. May be
   * called again to cut sooner.
   */
  close(grace?: number): Promise<void>;
}

const GRACE = 10_000;
/** What requests that are cut off have to send their last words, in milliseconds. */
const LAST_WORDS = 500;
const MAX_CONNECTIONS = 1024;
const MAX_TIMER_STEP = 1000;

type Handler = (request: IncomingMessage, call: Call) => void | Promise<void>;
type Routes = Readonly<Record<string, Readonly<Record<string, Handler>>>>;

/** Paths that answer without a key. */
const OPEN = new Set(["/health"]);

function routesOf(service: Service, health: () => object): Routes {
  const created = unixTime();
  const model = { id: service.model, object: "model", created, owned_by: "itpo" };
  return {
    "/health": { GET: (_, call) => sendJson(call.response, 200, health(), call.patience) },
    "/v1/models": {
      GET: (_, call) => sendJson(call.response, 200, { object: "list", data: [model] }, call.patience),
    },
    "/v1/chat/completions": {
      POST: async (request, call) => chatCompletions(service, await readJsonBody(request), call),
    },
  };
}

/**
 * Serves a model as OpenAI's API does.
 * @throws InputError where it may not or cannot listen there.
 */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const { engine, model, host = "127.0.0.1", port = 8000, apiKey, maxQueue = 256, maxTokens = 1024 } = options;
  const { maxSeconds } = options;
  checkExposure(host, apiKey);
  const patience = { ...defaultPatience, ...options.patience };
  const admit = gatekeeper(apiKey);
  const places = new Places(engine.maxBatch, { maxWaiting: maxQueue });
  const health = () => ({ status: "ok", event_loop_delay_ms: loop.delays });
  const routes = routesOf({ engine, places, model, maxTokens, maxSeconds }, health);
  const inFlight = new Map<AbortController, Promise<void>>();
  const responses = new WeakMap<Duplex, ServerResponse>();
  let closing = false;

  const server = createServer({
    headersTimeout: patience.headers,
    requestTimeout: patience.request,
    keepAliveTimeout: patience.idle,
    connectionsCheckingInterval: Math.min(MAX_TIMER_STEP, patience.headers, patience.request),
  });
  server.maxConnections = MAX_CONNECTIONS;

  async function handle(request: IncomingMessage, response: ServerResponse, signal: AbortSignal): Promise<void> {
    const call: Call = { response, signal, patience };
    try {
      const path = (request.url ?? "").split("?")[0];
      if (!OPEN.has(path)) admit(request);
      if (closing) throw shuttingDown();
      await route(routes, path, request.method ?? "")(request, call);
    } catch (error) {
      sendError(response, asApiError(signal.aborted ? signal.reason : error), patience);
    }
  }

  server.on("request", (request, response) => {
    const controller = new AbortController();
    responses.set(request.socket, response);
    response.on("error", () => controller.abort(clientGone()));
    response.on("close", () => {
      controller.abort(clientGone());
      if (closing) server.closeIdleConnections();
    });
    const handled = handle(request, response, controller.signal)
      .catch(() => response.destroy())
      .then(() => void inFlight.delete(controller));
    inFlight.set(controller, handled);
  });
  server.on("clientError", (error, socket) => refuseUnreadable(error, socket, responses.get(socket)));

  server.listen(port, host);
  await once(server, "listening").catch((error) => {
    throw cannotListen(error, host, port);
  });
  const loop = watchLoopDelay();
  server.on("error", (error) => process.stderr.write(`${error.message}\n`));
  const closed = new Promise<void>((resolve) => server.once("close", resolve));
  const name = isIPv6(host) ? `[${host}]` : host;

  async function cut(): Promise<void> {
    for (const controller of inFlight.keys()) controller.abort(shuttingDown());
    await Promise.all(inFlight.values());
    setTimeout(() => server.closeAllConnections(), LAST_WORDS).unref();
  }

  return {
    url: `http://${name}:${(server.address() as AddressInfo).port}`,
    async close(grace = GRACE) {
      if (!closing) server.close();
      closing = true;
      const timer = setTimeout(cut, grace);
      await closed;
      loop.stop();
      clearTimeout(timer);
      await Promise.all(inFlight.values());
    },
  };
}

function route(routes: Routes, path: string, method: string): Handler {
  const methods = Object.hasOwn(routes, path) ? routes[path] : undefined;
  if (!methods) {
    throw new ApiError(404, `${path} does not exist; there are ${Object.keys(routes).join(", ")}`, {
      code: "not_found",
    });
  }
  if (Object.hasOwn(methods, method)) return methods[method];
  const allow = Object.keys(methods).join(", ");
  throw new ApiError(405, `${path} takes ${allow}`, { code: "method_not_allowed", headers: { allow } });
}

const unreadable: Readonly<Record<string, readonly [status: string, message: string]>> = {
  ERR_HTTP_REQUEST_TIMEOUT: ["408 Request Timeout", "the request did not come in time"],
  HPE_HEADER_OVERFLOW: ["431 Request Header Fields Too Large", "the headers are too large"],
};

/** Answers what cannot be read as a request, unless a response is under way on that connection. */
function refuseUnreadable(error: NodeJS.ErrnoException, socket: Duplex, response: ServerResponse | undefined): void {
  const busy = response && !response.closed && response.headersSent;
  if (busy || !socket.writable || error.code === "ECONNRESET") {
    socket.destroy();
    return;
  }
  const [status, message] = unreadable[error.code ?? ""] ?? ["400 Bad Request", "this is not an HTTP request"];
  const body = JSON.stringify({ error: { message, type: "invalid_request_error", param: null, code: null } });
  const head = `content-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close`;
  socket.end(`HTTP/1.1 ${status}\r\n${head}\r\n\r\n${body}`, () => socket.destroy());
}

const listenErrors: Readonly<Record<string, (host: string, port: number) => string>> = {
  EADDRINUSE: (_, port) => `port ${port} is in use; give another with --port`,
  EACCES: (_, port) => `port ${port} may not be used; give one of 1024 or above with --port`,
  EADDRNOTAVAIL: (host) => `--host ${host} is no address of this machine`,
  ENOTFOUND: (host) => `--host ${host} is not known`,
};

function cannotListen(error: NodeJS.ErrnoException, host: string, port: number): Error {
  const message = listenErrors[error.code ?? ""];
  return message ? new InputError(message(host, port)) : error;
}
