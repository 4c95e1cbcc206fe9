import { InputError } from "../lib/index.js";
import {
  type CachedSequence,
  type ChatRenderer,
  type Completion,
  type DrawsOn,
  type Message,
  openCache,
  type Qwen,
  Sampler,
} from "../models/index.js";
import type { Environment, Episode } from "./environment.js";
import type { StopReason, Trajectory, Turn } from "./trajectory.js";

/** One conversation to have. */
export interface RolloutItem {
  readonly task: number;
  readonly sample: number;
}

export interface RolloutOptions {
  readonly policy: Qwen;
  readonly chat: ChatRenderer;
  readonly environment: Environment;
  readonly items: readonly RolloutItem[];
  readonly split?: "train" | "held_out";
  readonly seed: number;
  /** Training step, part of the noise's name. */
  readonly step?: number;
  /** 0 is greedy. */
  readonly temperature: number;
  /** Most assistant turns; the last one counts. */
  readonly maxTurns: number;
  /**
   * The reference's form: the turn that reaches `maxTurns` is thrown away, so that a conversation ends with the user's
   * message. That turn is not drawn, as nothing depends on it. Default false.
   */
  readonly discardLast?: boolean;
  /** Most tokens of one assistant turn. */
  readonly maxTurnTokens: number;
  /** Most tokens of a conversation, prompt included. */
  readonly maxTokens: number;
  /** Tokens a page of the KV cache holds. Default: models/openCache.ts. */
  readonly pageSize?: number;
  /** Most memory of the KV cache; idle conversations are evicted beyond it. Default 1. */
  readonly cacheGiB?: number;
  /** Default: the device where it can. */
  readonly drawsOn?: DrawsOn;
}

export interface Rollout {
  /** In the order of the items. */
  readonly trajectories: readonly Trajectory[];
  /** Tokens that the policy drew. */
  readonly drawn: number;
  readonly seconds: number;
}

/** @throws InputError where a conversation may get longer than the model allows. */
export function checkLength({ config }: Qwen, { maxTokens }: Pick<RolloutOptions, "maxTokens">): void {
  if (maxTokens <= config.maxPositions) return;
  throw new InputError(
    `rollout.maxTokens is ${maxTokens}, but the model has ${config.maxPositions} positions; lower rollout.maxTokens`,
  );
}

/**
 * Has all conversations at once, each with its own simulated user, over one KV cache that it frees at the end.
 * @throws InputError where `maxTokens` is more than the model allows.
 */
export async function rollout(options: RolloutOptions): Promise<Rollout> {
  const started = performance.now();
  const { policy, items, maxTokens, pageSize, cacheGiB, drawsOn } = options;
  checkLength(policy, options);
  const cache = openCache(policy, { sequences: items.length, tokens: maxTokens, cacheGiB, pageSize });
  try {
    const sampler = new Sampler(policy, cache, { seed: options.seed, drawsOn });
    const openings = sharedOpenings(sampler, items);
    const trajectories = await Promise.all(items.map((item) => converse(item, options, sampler, openings)));
    return { trajectories, drawn: sampler.drawn, seconds: (performance.now() - started) / 1000 };
  } finally {
    cache.dispose();
  }
}

/** A new sequence for a conversation that opens with these tokens. */
type Openings = (task: number, tokens: readonly number[]) => Promise<CachedSequence>;

/**
 * The samples of a task that open alike share what the cache has of the opening: it is computed once and forked, all but
 * its last token, after which each draws its own.
 */
function sharedOpenings(sampler: Sampler, items: readonly RolloutItem[]): Openings {
  const samples = new Map<number, number>();
  for (const { task } of items) samples.set(task, (samples.get(task) ?? 0) + 1);
  const shared = new Map<string, Promise<CachedSequence>>();
  const compute = async (tokens: readonly number[]) => {
    const sequence = sampler.cache.open();
    await sampler.prefill({ sequence, tokens });
    return sequence;
  };
  return async (task, tokens) => {
    if (samples.get(task) === 1 || tokens.length < 2) return sampler.cache.open();
    const key = `${task}: ${tokens.join(" ")}`;
    const opening = shared.get(key) ?? compute(tokens.slice(0, -1));
    shared.set(key, opening);
    return sampler.cache.fork(await opening);
  };
}

/** A conversation as it grows. */
interface Record {
  readonly messages: Message[];
  readonly tokens: number[];
  /** One per token, 0 for tokens that were not drawn. */
  readonly logprobs: number[];
  readonly turns: Turn[];
}

/** What the simulated user or a metric gave, or why it failed. */
type Attempt<T> = { readonly value: T } | { readonly failure: string };

async function converse(
  item: RolloutItem,
  options: RolloutOptions,
  sampler: Sampler,
  openings: Openings,
): Promise<Trajectory> {
  const { environment, split = "train", seed } = options;
  const record: Record = { messages: [], tokens: [], logprobs: [], turns: [] };
  let sequence: CachedSequence | undefined;
  try {
    const begun = await attempt(() => environment.begin(item.task, { split, sample: item.sample, seed }));
    if ("failure" in begun) return finish(item, record, "failed", begun);
    const episode = begun.value;
    const ended = await talk(
      episode,
      record,
      async (tokens, maxTokens) => {
        sequence ??= await openings(item.task, tokens);
        return sampler.generate({
          sequence,
          tokens,
          maxTokens,
          stopIds: new Set([...options.chat.stopIds, ...options.policy.config.eosTokenIds]),
          temperature: options.temperature,
          site: { step: options.step ?? 0, ...item, turn: record.turns.length },
        });
      },
      options,
    );
    if ("failure" in ended) return finish(item, record, "failed", ended);
    const scored = await attempt(() => episode.score(record.messages));
    return { ...finish(item, record, ended.value, scored), usefulTurn: episode.usefulTurn?.(record.messages) };
  } finally {
    if (sequence) sampler.cache.close(sequence);
  }
}

/** The conversation itself, from the opening to its end; limits are checked before a turn, so that the last turn counts. */
async function talk(
  episode: Episode,
  { messages, tokens, logprobs, turns }: Record,
  generate: (tokens: readonly number[], maxTokens: number) => Promise<Completion>,
  { chat, maxTurns, discardLast = false, maxTurnTokens, maxTokens }: RolloutOptions,
): Promise<Attempt<StopReason>> {
  const append = (ids: readonly number[], values?: readonly number[]) => {
    tokens.push(...ids);
    logprobs.push(...(values ?? ids.map(() => 0)));
  };
  messages.push(...episode.opening);
  append(chat.open(episode.opening));
  const kept = discardLast ? maxTurns - 1 : maxTurns;
  while (turns.length < kept) {
    const room = Math.min(maxTurnTokens, maxTokens - tokens.length);
    if (room < 1) return { value: "context_length" };
    const completion = await generate(tokens, room);
    const start = tokens.length;
    append(completion.ids, completion.logprobs);
    const cut = room < maxTurnTokens ? "context_length" : "turn_length";
    turns.push({ start, end: tokens.length, stop: completion.stop === "stop" ? "stop" : cut });
    messages.push({ role: "assistant", content: chat.content(completion.ids) });
    if (turns.length === kept && !discardLast) break;
    const reply = await attempt(() => episode.reply(messages));
    if ("failure" in reply) return reply;
    const { kind, content } = reply.value;
    if (content !== undefined) messages.push({ role: "user", content });
    if (kind === "done") return { value: "user_done" };
    const extension = chat.extend(completion.ids, { role: "user", content: content ?? "" });
    // A reply after which no token could be drawn is in the transcript only.
    if (tokens.length + extension.length >= maxTokens) return { value: "context_length" };
    append(extension);
  }
  return { value: "max_turns" };
}

async function attempt<T>(fn: () => T | Promise<T>): Promise<Attempt<T>> {
  try {
    return { value: await fn() };
  } catch (error) {
    return { failure: error instanceof Error ? error.message : String(error) };
  }
}

function finish(
  item: RolloutItem,
  { messages, tokens, logprobs, turns }: Record,
  stop: StopReason,
  scored: Attempt<unknown>,
): Trajectory {
  const sampled = new Uint8Array(tokens.length);
  for (const { start, end } of turns) sampled.fill(1, start, end);
  const failure = "failure" in scored ? scored.failure : undefined;
  return {
    ...item,
    messages,
    tokens: Int32Array.from(tokens),
    sampled,
    logprobs: Float32Array.from(logprobs),
    turns,
    metrics: "value" in scored ? (scored.value as Trajectory["metrics"]) : {},
    stop: failure === undefined ? stop : "failed",
    ...(failure !== undefined && { failure }),
  };
}
