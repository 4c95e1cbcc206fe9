/** OpenAI's names for kinds of errors. */
export type ErrorType =
  | "invalid_request_error"
  | "authentication_error"
  | "permission_error"
  | "rate_limit_error"
  | "server_error";

/** The body of every answer that is an error. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: ErrorType;
    /** The field at fault. */
    readonly param: string | null;
    readonly code: string | null;
  };
}

interface Details {
  readonly type?: ErrorType;
  readonly param?: string;
  readonly code?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** What a client is told went wrong. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly headers: Readonly<Record<string, string>>;
  readonly body: ErrorBody;

  constructor(
    readonly status: number,
    message: string,
    { type = "invalid_request_error", param, code, headers = {} }: Details = {},
  ) {
    super(message);
    this.headers = headers;
    this.body = { error: { message, type, param: param ?? null, code: code ?? null } };
  }
}

/** A request that asks for something wrong; `param` is the field. */
export function badRequest(message: string, param?: string, code?: string): ApiError {
  return new ApiError(400, message, { param, code });
}

/** The server has no room for a request: it may come again. */
export function tooBusy(): ApiError {
  return new ApiError(429, "the queue is full; try again in a moment", {
    type: "rate_limit_error",
    code: "queue_full",
    headers: { "retry-after": "1" },
  });
}

/** The server is ending. */
export function shuttingDown(): ApiError {
  return new ApiError(503, "the server is shutting down", { type: "server_error", headers: { connection: "close" } });
}

/** The client went away: nobody reads this. */
export function clientGone(): ApiError {
  return new ApiError(499, "the client closed the connection");
}

/** What a client is told of any error; one of the server's own faults goes to standard error, and the client learns only that. */
export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : error}\n`);
  return new ApiError(500, "the server failed to answer; its log says why", { type: "server_error" });
}
