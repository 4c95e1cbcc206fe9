import type { CachedSequence, KvCache } from "./kvCache.js";

/** Share of a step's tokens that prompts may take, however many sequences decode. */
const PROMPT_SHARE = 1 / 4;

/** What the plan of a step needs to know of a sequence that is being continued. */
export interface Workload {
  /** Tokens known and not in the cache yet: 1 where it decodes, more where a prompt is to be computed; 0 takes no part. */
  readonly pending: number;
  /** Number of the step that it last took part in. */
  readonly served: number;
}

/**
 * How many tokens of which sequence one forward pass computes, `budget` in all. Every sequence that decodes has its token;
 * prompts take what is left, the first come first, but never less than a quarter where they need it: neither starves the
 * other. Where there is no room for all that decode, the least recently served go first.
 */
export function planStep<Task extends Workload>(
  active: Iterable<Task>,
  budget: number,
): { readonly task: Task; readonly count: number }[] {
  const tasks = [...active];
  const decoding = tasks.filter(({ pending }) => pending === 1).sort((a, b) => a.served - b.served);
  const prompts = tasks.filter(({ pending }) => pending > 1);
  const wanted = prompts.reduce((sum, { pending }) => sum + pending, 0);
  const kept = Math.min(wanted, Math.floor(budget * PROMPT_SHARE));
  const plan = decoding.slice(0, budget - kept).map((task) => ({ task, count: 1 }));
  let left = budget - plan.length;
  for (const task of prompts) {
    const count = Math.min(task.pending, left);
    if (count === 0) break;
    plan.push({ task, count });
    left -= count;
  }
  return plan;
}

/** Tokens of prompts that go through one pass, where sequences decode beside it in steps of their own: those wait for it. */
export function promptBudget(budget: number, decoding: number): number {
  return decoding > 0 ? Math.max(1, Math.floor(budget * PROMPT_SHARE)) : budget;
}

/** Up to so many rows a pass takes as long as a step, whose time goes into reading the weights too. */
const FEW_TOKENS = 256;
/** Steps of others that a few tokens of prompts wait for at most. */
export const MOST_WAITS = 3;

/**
 * Whether prompts wait for others to share their pass, where sequences decode beside it: each pass over a few tokens costs
 * all of those as much as a step does.
 * @param budget most tokens of a pass: a full one does not wait
 * @param waits steps for which they have waited
 */
export function waitsForCompany(tokens: number, budget: number, decoding: number, waits: number): boolean {
  return decoding > 0 && tokens < Math.min(FEW_TOKENS, budget) && waits < MOST_WAITS;
}

/**
 * Keeps room for a sequence to grow to `target` tokens, evicting idle ones, the least recently used first, where pages run
 * short. What has room kept always gets to its end, so that waiting for room cannot become a deadlock.
 * @param promised pages that sequences with room kept may still take: the cache's `pagesPromised`
 * @returns false, and evicts nothing, where too many pages are held or promised.
 */
export function admit(cache: KvCache, sequence: CachedSequence, target: number, promised: number): boolean {
  const fits = () => cache.pagesNeeded(sequence, target - sequence.length) + promised <= cache.freePages;
  if (!fits()) {
    const staying = [...cache.sequences].filter((other) => other === sequence || other.target > 0);
    const growth = Math.ceil(target / cache.options.pageSize) - sequence.pages.length;
    if (growth + promised > cache.options.pages - cache.pagesHeld(staying)) return false;
    for (const idle of cache.sequences) {
      if (idle !== sequence && idle.target === 0) cache.evict(idle);
      if (fits()) break;
    }
  }
  if (!fits()) return false;
  sequence.target = target;
  return true;
}
