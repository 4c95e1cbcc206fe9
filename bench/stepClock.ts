import { out64 } from "../lib/backend/cuda/driver.js";
import type { CudaBackend } from "../lib/backend/cuda/index.js";
import type { Qwen } from "../models/index.js";

/** Seconds in which the device was at a step that decodes, and at passes over prompts alone. */
export interface StepSeconds {
  readonly decoding: number;
  readonly prompts: number;
}

/**
 * Watches the steps of a model from now on; what it gives back tells of those since it was last asked, and waits for the
 * device. On a GPU the times are those between events on its stream, right before and behind each step.
 */
export function stepClock(model: Qwen, cuda: CudaBackend | undefined): () => StepSeconds {
  const spans: Record<keyof StepSeconds, [start: number, end: number][]> = { decoding: [], prompts: [] };
  const mark = () => {
    if (!cuda) return performance.now();
    const { driver, stream } = cuda.device;
    const event = out64((result) => driver.eventCreate(result, 0));
    driver.eventRecord(event, stream);
    return event;
  };
  const during = <T>(kind: keyof StepSeconds, work: () => T): T => {
    const start = mark();
    const result = work();
    spans[kind].push([start, mark()]);
    return result;
  };

  const { fused } = model.backend;
  const { record } = fused;
  if (record) {
    fused.record = (...args) => {
      const recording = record(...args);
      const { launch } = recording;
      return Object.assign(recording, { launch: () => during("decoding", launch) });
    };
  }
  const forward = model.forwardCached.bind(model);
  model.forwardCached = (batch, step) => {
    // What is recorded, or rehearsed for that, is counted when it is launched.
    if ("table" in step.context) return forward(batch, step);
    const { offsets } = step.context;
    const decodes = offsets.some((offset, s) => s > 0 && offset - offsets[s - 1] === 1);
    return during(decodes ? "decoding" : "prompts", () => forward(batch, step));
  };

  const seconds = ([start, end]: [number, number]) => {
    if (!cuda) return (end - start) / 1000;
    const { driver } = cuda.device;
    const milliseconds = new Float32Array(1);
    driver.eventElapsedTime(milliseconds, start, end);
    for (const event of [start, end]) driver.eventDestroy(event);
    return milliseconds[0] / 1000;
  };
  return () => {
    cuda?.device.synchronize();
    const [decoding, prompts] = [spans.decoding, spans.prompts].map((list) =>
      list.splice(0).reduce((sum, span) => sum + seconds(span), 0),
    );
    return { decoding, prompts };
  };
}
