import type { CallFault } from "./callError.js";
import type { ChatReply } from "./chatModel.js";

/** What tokens cost, per million. */
export interface Price {
  readonly prompt: number;
  readonly completion: number;
}

/** One attempt: how long the server took, and what came of it. */
export interface AttemptReport {
  readonly seconds: number;
  readonly reply?: ChatReply;
  readonly fault?: CallFault;
}

/** Counts what calls to one model took, for the metrics of a step. */
export class Usage {
  #counts: Record<string, number> = {};
  #attempts: number[] = [];
  #calls: number[] = [];

  constructor(readonly price: Price = { prompt: 0, completion: 0 }) {}

  /** A call has ended after `seconds`, waiting and retries included. */
  call(seconds: number, fault?: CallFault): void {
    this.#add("calls");
    this.#calls.push(seconds);
    if (!fault) return;
    this.#add("failures");
    this.#add(`failures_${fault}`);
  }

  cacheHit(): void {
    this.#add("calls");
    this.#add("cache_hits");
  }

  attempt({ seconds, reply, fault }: AttemptReport): void {
    this.#add("attempts");
    this.#attempts.push(seconds);
    if (fault) this.#add(`faults_${fault}`);
    if (!reply) return;
    const { promptTokens, completionTokens } = reply;
    this.#add("prompt_tokens", promptTokens);
    this.#add("completion_tokens", completionTokens);
    this.#add("cost", (promptTokens * this.price.prompt + completionTokens * this.price.completion) / 1e6);
  }

  /** What was counted since the last time; latencies in seconds. Nothing where nothing was asked. */
  take(): Record<string, number> {
    const attempts = spread("latency", this.#attempts);
    const calls = spread("call_seconds", this.#calls);
    const counts = this.#counts;
    [this.#counts, this.#attempts, this.#calls] = [{}, [], []];
    return { ...counts, ...attempts, ...calls };
  }

  #add(name: string, amount = 1): void {
    this.#counts[name] = (this.#counts[name] ?? 0) + amount;
  }
}

function spread(name: string, values: number[]): Record<string, number> {
  if (values.length === 0) return {};
  values.sort((a, b) => a - b);
  return {
    [`${name}_mean`]: values.reduce((a, b) => a + b, 0) / values.length,
    [`${name}_p95`]: values[Math.ceil(0.95 * values.length) - 1],
    [`${name}_max`]: values[values.length - 1],
  };
}
