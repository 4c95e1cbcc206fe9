import type { DType } from "../../dtype.js";
import type { Backend, Storage } from "../backend.js";
import type { CudaContext } from "./context.js";
import { CublasLt } from "./cublaslt.js";
import { CudaDevice, cudaDeviceCount } from "./device.js";
import { elementwiseOperations } from "./elementwise.js";
import { adamwKernels } from "./fused/adamw.js";
import { attentionKernels } from "./fused/attention.js";
import { attentionHopperModules } from "./fused/attentionHopper.js";
import { fewRowsKernels } from "./fused/fewRows.js";
import { linearLogprobKernels } from "./fused/linearLogprob.js";
import { linearLogprobHopperModules } from "./fused/linearLogprobHopper.js";
import { rmsNormKernels } from "./fused/rmsNorm.js";
import { ropeKernels, ropeTables } from "./fused/rope.js";
import { sampleKernels } from "./fused/sample.js";
import { swigluKernels } from "./fused/swiglu.js";
import { captureGraph } from "./graph.js";
import type { Block } from "./heap.js";
import { findCudaLibrary } from "./libraries.js";
import { matmulOperations } from "./matmul.js";
import { movementOperations } from "./movement.js";
import { nvrtcVersion } from "./nvrtc.js";
import { reduceOperations } from "./reduce.js";
import { rowOperations } from "./rows.js";

/** A backend on an NVIDIA GPU. */
export interface CudaBackend extends Backend {
  readonly device: CudaDevice;
  readonly blas: CublasLt;
}

/** GPUs that can be opened; 0 where there is no driver. */
export function countCudaDevices(): number {
  if ("tried" in findCudaLibrary("cuda")) return 0;
  try {
    return cudaDeviceCount();
  } catch {
    return 0;
  }
}

/**
 * Opens the GPU with this number.
 * @throws InputError where the driver, NVRTC or cuBLASLt is missing, the device does not exist or is too old, or another
 * one is open.
 */
export async function createCuda(ordinal = 0): Promise<CudaBackend> {
  const device = new CudaDevice(ordinal);
  try {
    const blas = new CublasLt(device);
    if (device.capability === 90) {
      await device.kernels.prepare([...attentionHopperModules, ...linearLogprobHopperModules]);
    }
    return backendOn(device, blas);
  } catch (error) {
    device.close();
    throw error;
  }
}

function backendOn(device: CudaDevice, blas: CublasLt): CudaBackend {
  const context: CudaContext = {
    device,
    blas,
    empty: (dtype, size, label) => device.allocate(backend, dtype, size, label),
  };
  const { matmul, matmulWide } = matmulOperations(context);
  const { scatterRowsWide, ...rows } = rowOperations(context);
  const tables = ropeTables(device);
  const backend: CudaBackend = {
    device,
    blas,
    name: `cuda:${device.ordinal}`,
    description:
      `${device.name} (${device.architecture}), NVRTC ${nvrtcVersion()}, cuBLASLt ${blas.version}, ` +
      `${(device.totalBytes / 2 ** 30).toFixed(0)} GiB`,
    dtypes: new Set<DType>(["f32", "bf16", "f16", "i32", "u32", "u8", "bool"]),

    upload: (dtype, data) => device.upload(backend, dtype, data),
    download: (x) => device.download(x),
    free: (storage: Storage) => device.giveBytes(storage.handle as Block),
    memory: () => device.memory(),
    matmul,
    ...elementwiseOperations(context),
    ...movementOperations(context),
    ...reduceOperations(context),
    ...rows,
    fused: {
      matmulWide,
      scatterRowsWide,
      ...rmsNormKernels(context),
      ...ropeKernels(context, tables),
      ...swigluKernels(context),
      ...fewRowsKernels(context, tables),
      ...sampleKernels(context),
      record: (enqueue) => captureGraph(device, enqueue),
      ...attentionKernels(context),
      ...linearLogprobKernels(context),
      ...adamwKernels(context),
    },
    close: () => device.close(),
  };
  return backend;
}
