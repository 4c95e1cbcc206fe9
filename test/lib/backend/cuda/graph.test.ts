import { captureGraph } from "../../../../lib/backend/cuda/graph.js";
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
