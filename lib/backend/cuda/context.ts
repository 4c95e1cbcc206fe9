import type { DType } from "../../dtype.js";
import type { Storage } from "../backend.js";
import type { CublasLt } from "./cublaslt.js";
import type { CudaDevice } from "./device.js";

/** What the parts of the CUDA backend share. */
export interface CudaContext {
  readonly device: CudaDevice;
  readonly blas: CublasLt;
  /** A new storage with undefined contents; `label` names its holder in out-of-memory reports. */
  empty(dtype: DType, size: number, label: string): Storage;
}
