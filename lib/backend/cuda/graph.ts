import type { CudaDevice } from "./device.js";
import { out64 } from "./driver.js";

/** Work that was recorded once and is enqueued whole. */
export interface CudaGraph {
  /** Enqueues all of it: about a microsecond a kernel less than launching them. */
  launch(): void;
  dispose(): void;
}

const CAPTURE_THREAD_LOCAL = 1;

/**
 * Records what `enqueue` launches instead of running it. The addresses it uses are part of the recording: arrays that it
 * reads or writes must stay where they are. So it may not copy from or to the host, nor use operations that work in memory
 * of their own (`withScratch`): that is handed out to others once they are enqueued.
 */
export function captureGraph(device: CudaDevice, enqueue: () => void): CudaGraph {
  const { driver, stream } = device;
  driver.streamBeginCapture(stream, CAPTURE_THREAD_LOCAL);
  let graph = 0;
  try {
    try {
      device.recording = true;
      enqueue();
    } finally {
      device.recording = false;
      graph = out64((result) => driver.streamEndCapture(stream, result));
    }
    const executable = out64((result) => driver.graphInstantiate(result, graph, 0));
    return {
      launch: () => driver.graphLaunch(executable, stream),
      dispose: () => driver.graphExecDestroy(executable),
    };
  } finally {
    if (graph !== 0) driver.graphDestroy(graph);
  }
}
