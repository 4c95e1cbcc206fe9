/** Why a call to a model came to nothing. */
export type CallFault =
  /** The server asks for fewer calls (429). */
  | "rate_limit"
  /** The server failed (5xx, or an answer that is none). */
  | "server"
  /** No connection, or one that was cut in the middle of the answer. */
  | "connection"
  /** One attempt took too long. */
  | "timeout"
  /** The call as a whole, waiting and retries included, took too long. */
  | "deadline"
  /** The server refuses the call as it is (other 4xx), or it does not fit the model. */
  | "refused"
  /** A reply without a word. */
  | "empty"
  /** A reply that is not in the form asked for, or cut off before its end. */
  | "unusable";

/** Whether the same call may fare better when it is made again. */
const mayPass: Readonly<Record<CallFault, boolean>> = {
  rate_limit: true,
  server: true,
  connection: true,
  timeout: true,
  deadline: false,
  refused: false,
  empty: true,
  unusable: true,
};

/** A call that came to nothing: the sample that needed it has failed. */
export class CallError extends Error {
  override readonly name = "CallError";

  constructor(
    readonly fault: CallFault,
    message: string,
    /** Seconds after which the server wants to be asked again. */
    readonly retryAfter = 0,
  ) {
    super(message);
  }

  get mayPass(): boolean {
    return mayPass[this.fault];
  }
}
