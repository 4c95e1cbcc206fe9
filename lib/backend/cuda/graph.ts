import type { Recording } from "../backend.js";
import type { CudaDevice } from "./device.js";
import { out64 } from "./driver.js";
import type { Block } from "./heap.js";

const CAPTURE_THREAD_LOCAL = 1;

/**
 * Records what `enqueue` launches as a CUDA graph instead of running it: launching it takes about a microsecond a kernel less.
 * The addresses it uses are part of the recording. What it allocates and frees is set aside for the recording; arrays that it
 * reads, writes or returns must stay where they are. It may not copy from or to the host, and its kernels must be compiled,
 * so run the same work once before.
 * @throws what `enqueue` throws; nothing is left of the recording then.
 */
export function captureGraph(device: CudaDevice, enqueue: () => void): Recording {
  const { driver, stream } = device;
  driver.streamBeginCapture(stream, CAPTURE_THREAD_LOCAL);
  let graph = 0;
  const endCapture = () => {
    graph = out64((result) => driver.streamEndCapture(stream, result));
  };
  let blocks: Block[] = [];
  try {
    try {
      blocks = device.whileRecording(enqueue);
    } catch (error) {
      try {
        endCapture();
      } catch {
        // What spoiled the capture is the error to report.
      }
      throw error;
    }
    endCapture();
    const executable = out64((result) => driver.graphInstantiate(result, graph, 0));
    return {
      launch() {
        driver.graphLaunch(executable, stream);
        device.overlaps.other();
        device.ran("recorded work");
      },
      // What is under way goes on to its end (cuGraphExecDestroy), before whatever its memory is used for next.
      dispose() {
        driver.graphExecDestroy(executable);
        for (const block of blocks.splice(0)) device.giveBytes(block);
      },
    };
  } catch (error) {
    for (const block of blocks) device.giveBytes(block);
    throw error;
  } finally {
    if (graph !== 0) driver.graphDestroy(graph);
  }
}
