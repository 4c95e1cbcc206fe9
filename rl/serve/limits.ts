/** The most that one request may ask for, whatever the model. */
export const limits = {
  /** Bytes of a request's body. */
  bodyBytes: 2 * 2 ** 20,
  /** A template that trims contents is rendered once a message, so the time goes with the square. */
  messages: 256,
  /** Answers to one request. */
  choices: 16,
  stops: 4,
  /** Most likely tokens shown beside each drawn one. */
  topLogprobs: 20,
  /** UTF-16 code units of a stop string. */
  stopLength: 256,
} as const;

/** How long a client may take, in milliseconds. */
export interface Patience {
  /** For the request's headers. */
  readonly headers: number;
  /** For the whole request. */
  readonly request: number;
  /** Between two requests on one connection. */
  readonly idle: number;
  /** For taking what was sent to it. */
  readonly stall: number;
}

export const defaultPatience: Patience = { headers: 10_000, request: 30_000, idle: 5_000, stall: 30_000 };
