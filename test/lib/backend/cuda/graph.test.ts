import test from "ava";
import type { CudaDevice } from "../../../../lib/backend/cuda/device.js";
import { captureGraph } from "../../../../lib/backend/cuda/graph.js";
import { Overlaps } from "../../../../lib/backend/cuda/overlaps.js";
import { tensor } from "../../../../lib/index.js";
import { values } from "../../support.js";
import { cudaTest, openCuda } from "./support.js";

cudaTest("a recorded graph does its work once a launch, on the arrays as they are then", async (t) => {
  const backend = await openCuda();
  const [sum, part] = [tensor([1, 2, 3], { backend }), tensor([10, 20, 30], { backend })];
  // Compiled before: nothing may be loaded while work is recorded.
  backend.accumulate(sum, part);
  const graph = captureGraph(backend.device, () => {
    backend.accumulate(sum, part);
    backend.accumulate(sum, part);
  });
  t.deepEqual(await values(sum), [11, 22, 33], "recording runs nothing");
  graph.launch();
  t.deepEqual(await values(sum), [31, 62, 93]);
  part.assign(tensor([0, 0, 1], { backend }));
  graph.launch();
  t.deepEqual(await values(sum), [31, 62, 95]);
  graph.dispose();
});

cudaTest("an error while work is recorded leaves nothing behind, and the device goes on", async (t) => {
  const backend = await openCuda();
  const { device } = backend;
  const x = tensor([1, 2, 3], { backend });
  x.mul(x).dispose();
  const before = device.memory();
  const record = () =>
    captureGraph(device, () => {
      x.mul(x).dispose();
      throw new Error("no further");
    });
  t.throws(record, { message: "no further" });
  t.throws(() => captureGraph(device, () => device.takeBytes(2 ** 45, "too much")), { message: /out of memory/ });
  t.is(device.memory().bytes, before.bytes);
  t.is(device.memory().buffers, before.buffers);
  t.deepEqual(await values(x.mul(x)), [1, 4, 9]);
});

cudaTest("kernels that are recorded are not timed, nor waited for", async (t) => {
  const backend = await openCuda();
  const { device } = backend;
  const [sum, part] = [tensor([1, 2, 3], { backend }), tensor([10, 20, 30], { backend })];
  backend.accumulate(sum, part);
  device.debug = 2;
  const graph = captureGraph(device, () => backend.accumulate(sum, part));
  device.debug = 0;
  graph.launch();
  t.deepEqual(await values(sum), [21, 42, 63]);
  graph.dispose();
});

/** A device that notes what is asked of it; `fails` throws. */
function noting(fails: (call: string) => void) {
  const calls: string[] = [];
  const note = (call: string) => {
    calls.push(call);
    fails(call);
  };
  const names = ["streamBeginCapture", "streamEndCapture", "graphInstantiate", "graphLaunch", "graphExecDestroy"];
  const driver: Record<string, (...args: unknown[]) => void> = { graphDestroy: () => note("graphDestroy") };
  for (const name of names) {
    driver[name] = (...args) => {
      note(name);
      const results = name === "graphInstantiate" ? args[0] : args[1];
      if (results instanceof BigUint64Array) results[0] = 7n;
    };
  }
  const device = {
    driver,
    stream: 1,
    whileRecording(enqueue: () => void) {
      enqueue();
      return ["block"];
    },
    giveBytes: (block: unknown) => note(`give ${block}`),
    overlaps: new Overlaps(),
    ran: (name: string) => note(`ran ${name}`),
  };
  return { calls, device: device as unknown as CudaDevice };
}

test("a recording is launched under a name, and gives its memory back once", (t) => {
  const { calls, device } = noting(() => {});
  const recording = captureGraph(device, () => {});
  t.deepEqual(calls.splice(0), ["streamBeginCapture", "streamEndCapture", "graphInstantiate", "graphDestroy"]);
  recording.launch();
  recording.dispose();
  t.deepEqual(calls, ["graphLaunch", "ran recorded work", "graphExecDestroy", "give block"]);
});

test("a graph that cannot be made executable gives its memory back", (t) => {
  const { calls, device } = noting((call) => {
    if (call === "graphInstantiate") throw new Error("full");
  });
  t.throws(() => captureGraph(device, () => {}), { message: "full" });
  t.deepEqual(calls.slice(2), ["graphInstantiate", "give block", "graphDestroy"]);
});

test("of two errors that which spoiled the recording is told", (t) => {
  const { calls, device } = noting((call) => {
    if (call === "streamEndCapture") throw new Error("invalidated");
  });
  const record = () =>
    captureGraph(device, () => {
      throw new Error("the cause");
    });
  t.throws(record, { message: "the cause" });
  t.deepEqual(calls, ["streamBeginCapture", "streamEndCapture"]);
});
