import { topK } from "../../../../lib/backend/cuda/topk.js";
import { tensor } from "../../../../lib/index.js";
import { Tensor } from "../../../../lib/tensor.js";
import { normals } from "../../support.js";
import { cudaTest, openCuda } from "./support.js";

cudaTest("topK: the largest in order, the lower index first among equals", async (t) => {
  const backend = await openCuda();
  const context = { ...backend, empty: backend.device.allocate.bind(backend.device, backend) };
  for (const dtype of ["f32", "bf16"] as const) {
    for (const [rows, columns, k] of [
      [1, 1, 1],
      [3, 7, 7],
      [2, 1000, 5],
      [5, 8193, 40],
      [2, 151_936, 1024],
    ]) {
      // In bf16 many are equal.
      const x = tensor(normals(7, rows * columns), { backend, dtype, shape: [rows, columns] });
      const { values, indices } = topK(context, x, k);
      const [given, found, at] = await Promise.all([
        x.data(),
        new Tensor(values, [rows, k]).data(),
        new Tensor(indices, [rows, k]).data(),
      ]);
      for (let row = 0; row < rows; row++) {
        const part = given.subarray(row * columns, (row + 1) * columns);
        const order = Array.from(part, (_, i) => i).sort((a, b) => part[b] - part[a] || a - b);
        const expected = order.slice(0, k);
        t.deepEqual([...at.subarray(row * k, (row + 1) * k)], expected, `${dtype} ${rows} × ${columns}, ${k}`);
        t.deepEqual(
          [...found.subarray(row * k, (row + 1) * k)],
          expected.map((i) => part[i]),
        );
      }
      backend.free(values);
      backend.free(indices);
      x.dispose();
    }
  }
});
