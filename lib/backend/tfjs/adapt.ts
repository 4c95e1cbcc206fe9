import type { DType } from "../../dtype.js";
import type { Backend } from "../backend.js";
import type { Engine } from "./engines.js";
import { hostOperations } from "./host.js";
import { EngineMemory, engineDtypes } from "./memory.js";
import { engineOperations, type Run } from "./operations.js";

/** A backend that computes with an engine of TensorFlow.js. It holds f32, i32 and bool. */
export function adapt(engine: Engine): Backend {
  const { tf, registered } = engine;
  const run: Run = (fn) => {
    if (tf.getBackend() !== registered) void tf.setBackend(registered);
    return tf.tidy(fn);
  };
  const memory = new EngineMemory(engine, () => backend);
  const operations = engineOperations(engine, memory, run);
  const backend: Backend = {
    name: `tfjs:${engine.name}`,
    description: `TensorFlow.js, ${engine.detail}`,
    dtypes: new Set(Object.keys(engineDtypes) as DType[]),
    free: (storage) => memory.free(storage),
    memory: () => memory.use(),
    ...(engine.host ? hostOperations(engine, operations, memory, run) : operations),
  };
  return backend;
}
