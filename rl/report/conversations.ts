import { type Html, html } from "./html.js";
import { spreadTranscripts, type Transcript, type TranscriptMessage } from "./transcript.js";

/** The most characters of one message that the page shows; the transcripts file has the rest. */
const MAX_CHARACTERS = 20_000;
/** The most tokens of one message that the page shades. */
const MAX_TOKENS = 5_000;

/** How conversations and turns end, in words; the keys are `StopReason`. */
const STOPS: Readonly<Record<string, string>> = {
  stop: "ended its turn",
  turn_length: "cut off at the turn's token limit",
  context_length: "cut off at the conversation's token limit",
  max_turns: "reached the limit of turns",
  user_done: "ended by the user",
  failed: "failed",
};

/** What the browser needs to show conversations; reward and token scores are drawn on the scales given. */
export interface ConversationData {
  readonly transcripts: readonly object[];
  readonly stages: readonly string[];
  readonly bands: readonly string[];
  readonly rewardScale: number;
  readonly tokenScale: number;
}

/** Limits on what goes into the page. */
export interface Bounds {
  /** Conversations. */
  readonly count: number;
  /** Characters of JSON, a soft limit: at least two conversations stay. */
  readonly characters: number;
}

/** Selects the page's conversations, evenly spread and within the bounds, and sorts them into stages and bands. */
export function conversationData(transcripts: readonly Transcript[], bounds: Bounds): ConversationData {
  const kept = bounded(transcripts, bounds);
  const steps = kept.map((transcript) => transcript.step);
  const last = steps.at(-1) ?? 0;
  const band = outcomeBands(kept);
  const stages = kept.map((transcript) => stageOf(transcript, steps[0], last));
  const present = (names: readonly string[], all: readonly string[]) => names.filter((name) => all.includes(name));
  const bands = kept.map((transcript) => band.of(transcript.outcome));
  const messages = kept.flatMap((transcript) => transcript.messages);
  return {
    transcripts: kept.map((transcript, i) => ({ ...displayed(transcript), stage: stages[i], band: bands[i] })),
    stages: present([...new Set([...TRAINING_STAGES, ...stages])], stages),
    bands: present(band.names, bands),
    rewardScale: scale(messages.flatMap((message) => message.reward ?? [])),
    tokenScale: scale(messages.flatMap((message) => (message.tokens ?? []).map((token) => token.score))),
  };
}

function bounded(transcripts: readonly Transcript[], { count, characters }: Bounds): Transcript[] {
  let kept = spreadTranscripts(transcripts, count);
  for (;;) {
    const size = kept.reduce((sum, transcript) => sum + sizeOf(transcript), 0);
    if (size <= characters || kept.length <= 2) return kept;
    kept = spreadTranscripts(kept, Math.max(2, Math.floor((0.95 * kept.length * characters) / size)));
  }
}

/** About how many characters a transcript takes as JSON. */
function sizeOf(transcript: Transcript): number {
  const sizes = transcript.messages.map(({ content, tokens }) => {
    const shown = tokens?.slice(0, MAX_TOKENS) ?? [];
    return 150 + Math.min(content.length, MAX_CHARACTERS) + shown.reduce((sum, { text }) => sum + text.length + 12, 0);
  });
  return sizes.reduce((sum, size) => sum + size, 200);
}

const TRAINING_STAGES = ["early", "middle", "late"];

/** The label of a transcript, or which third of the training it is from. */
function stageOf({ step, label }: Transcript, first: number, last: number): string {
  return label ?? TRAINING_STAGES[Math.min(2, Math.floor((3 * (step - first)) / Math.max(1, last - first)))];
}

const NO_OUTCOME = "no outcome";

/** Bands of outcomes to choose from: each value if there are few, else thirds of the conversations. */
function outcomeBands(transcripts: readonly Transcript[]): { names: string[]; of(outcome: number | null): string } {
  const outcomes = transcripts.flatMap(({ outcome }) => (isScore(outcome) ? [outcome] : [])).sort((a, b) => b - a);
  const values = [...new Set(outcomes)];
  if (values.length <= 4) {
    const name = (value: number) => `outcome ${round(value)}`;
    return { names: [...values.map(name), NO_OUTCOME], of: (value) => (isScore(value) ? name(value) : NO_OUTCOME) };
  }
  const [high, middle] = [1, 2].map((third) => outcomes[Math.floor((third * (outcomes.length - 1)) / 3)]);
  const names = [`high, from ${round(high)}`, `middle, from ${round(middle)}`, "low"];
  const of = (value: number | null) =>
    isScore(value) ? names[value >= high ? 0 : value >= middle ? 1 : 2] : NO_OUTCOME;
  return { names: [...names, NO_OUTCOME], of };
}

function isScore(value: number | null): value is number {
  return value !== null && Number.isFinite(value);
}

/** The size that fills a bar: the 98th percentile, so that a single outlier does not flatten the rest. */
function scale(values: readonly number[]): number {
  const sizes = Float64Array.from(values.filter(Number.isFinite), Math.abs).sort();
  return sizes[Math.floor(0.98 * (sizes.length - 1))] ?? 0;
}

const round = (value: number) => Number(value.toPrecision(4));

/** A transcript as the script shows it: named, with endings in words, the largest turn reward found, and text cut. */
function displayed(transcript: Transcript): object {
  const { label, step, task, sample, outcome, metrics, stop, messages } = transcript;
  const turns = messages.filter((message) => message.role === "assistant");
  const best = largestReward(turns);
  return {
    id: [label ?? "training", step, task, sample].join("-"),
    name: label === undefined ? `step ${step}` : `step ${step}, ${label}`,
    place: `#${task}.${sample}`,
    task,
    sample,
    outcome,
    metrics,
    stop: inWords(stop),
    verdict: verdict(turns, best),
    messages: messages.map((message) => displayedMessage(message, turns.indexOf(message) + 1, message === best)),
  };
}

function displayedMessage(message: TranscriptMessage, turn: number, largest: boolean): object {
  const { role, content, tokens, useful, stop } = message;
  const rest = content.length - MAX_CHARACTERS;
  const speaker = role.charAt(0).toUpperCase() + role.slice(1);
  return {
    kind: ROLES.includes(role) ? role : "other",
    speaker: turn > 0 ? `${speaker}, turn ${turn}` : speaker,
    content: rest > 0 ? `${content.slice(0, MAX_CHARACTERS)} … ${rest} more characters` : content,
    tokens: tokens?.slice(0, MAX_TOKENS).map(({ text, score }) => [text, score]),
    useful,
    stop: stop && inWords(stop),
    reward: ifFinite(message.reward),
    advantage: ifFinite(message.advantage),
    weight: ifFinite(message.weight),
    largest: largest || undefined,
  };
}

const ROLES = ["system", "user", "assistant"];

function inWords(stop: string): string {
  return Object.hasOwn(STOPS, stop) ? STOPS[stop] : stop;
}

function ifFinite(value: number | undefined): number | undefined {
  return Number.isFinite(value) ? value : undefined;
}

function largestReward(turns: readonly TranscriptMessage[]): TranscriptMessage | undefined {
  const rewarded = turns.filter((turn) => Number.isFinite(turn.reward));
  return rewarded.length > 0 ? rewarded.reduce((a, b) => (b.reward! > a.reward! ? b : a)) : undefined;
}

/** Says whether the largest turn reward fell on the truly useful turn, as far as both are known. */
function verdict(turns: readonly TranscriptMessage[], best: TranscriptMessage | undefined): string {
  if (!best) return "";
  const found = `Largest turn reward: turn ${turns.indexOf(best) + 1}`;
  const useful = turns.findIndex((turn) => turn.useful);
  if (useful < 0) return `${found}.`;
  return best.useful ? `${found}, the truly useful one.` : `${found}; the truly useful one is turn ${useful + 1}.`;
}

/** The conversations' part of the page, which the script fills. */
export function conversationSection(data: ConversationData): Html {
  return html`<section aria-labelledby="conversations"><h2 id="conversations">Conversations</h2>
${viewer(data)}
</section>`;
}

function viewer(data: ConversationData): Html {
  const options = (all: string, names: readonly string[]) =>
    html`<option value="">${all}</option>${names.map((name) => html`<option>${name}</option>`)}`;
  if (data.transcripts.length === 0) return html`<p class="note">None recorded yet.</p>`;
  return html`<div class="bar">
<label>Stage <select id="stage">${options("all", data.stages)}</select></label>
<label>Outcome <select id="outcome">${options("all", data.bands)}</select></label>
<span><button type="button" id="previous">Previous</button> <button type="button" id="next">Next</button></span>
${data.tokenScale > 0 ? html`<label><input type="checkbox" id="shade"> Shade tokens by credit</label>` : ""}
<span class="count" id="count" aria-live="polite"></span>
</div>
<noscript><p>Conversations need JavaScript.</p></noscript>
<div class="viewer">
<nav class="panel list" id="list" aria-label="Conversations"></nav>
<div class="panel talk" id="talk" role="region" aria-label="Conversation"></div>
</div>`;
}
