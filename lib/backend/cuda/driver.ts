import { cudaLibrary } from "./libraries.js";

/**
 * The CUDA driver API, as far as it is used here. Handles and device addresses are numbers (below 2^53). Every function
 * throws a CudaError unless the driver answers CUDA_SUCCESS. All calls come from the thread that opened the device.
 */
const prototypes = {
  init: "int cuInit(uint32_t flags)",
  deviceGetCount: "int cuDeviceGetCount(int *count)",
  deviceGet: "int cuDeviceGet(int *device, int ordinal)",
  deviceGetName: "int cuDeviceGetName(void *name, int length, int device)",
  deviceGetAttribute: "int cuDeviceGetAttribute(int *value, int attribute, int device)",
  deviceTotalMem: "int cuDeviceTotalMem_v2(uint64_t *bytes, int device)",
  primaryCtxRetain: "int cuDevicePrimaryCtxRetain(uint64_t *context, int device)",
  primaryCtxRelease: "int cuDevicePrimaryCtxRelease_v2(int device)",
  ctxSetCurrent: "int cuCtxSetCurrent(uint64_t context)",
  memGetInfo: "int cuMemGetInfo_v2(uint64_t *free, uint64_t *total)",
  streamCreate: "int cuStreamCreate(uint64_t *stream, uint32_t flags)",
  streamDestroy: "int cuStreamDestroy_v2(uint64_t stream)",
  streamSynchronize: "int cuStreamSynchronize(uint64_t stream)",
  streamBeginCapture: "int cuStreamBeginCapture_v2(uint64_t stream, int mode)",
  streamEndCapture: "int cuStreamEndCapture(uint64_t stream, uint64_t *graph)",
  graphInstantiate: "int cuGraphInstantiateWithFlags(uint64_t *executable, uint64_t graph, uint64_t flags)",
  graphLaunch: "int cuGraphLaunch(uint64_t executable, uint64_t stream)",
  graphExecDestroy: "int cuGraphExecDestroy(uint64_t executable)",
  graphDestroy: "int cuGraphDestroy(uint64_t graph)",
  eventCreate: "int cuEventCreate(uint64_t *event, uint32_t flags)",
  eventRecord: "int cuEventRecord(uint64_t event, uint64_t stream)",
  eventSynchronize: "int cuEventSynchronize(uint64_t event)",
  eventElapsedTime: "int cuEventElapsedTime_v2(float *milliseconds, uint64_t start, uint64_t end)",
  eventDestroy: "int cuEventDestroy_v2(uint64_t event)",
  memHostAlloc: "int cuMemHostAlloc(uint64_t *address, uint64_t bytes, uint32_t flags)",
  memFreeHost: "int cuMemFreeHost(uint64_t address)",
  memcpyHtoD: "int cuMemcpyHtoDAsync_v2(uint64_t to, void *from, uint64_t bytes, uint64_t stream)",
  memcpyPinnedToD: "int cuMemcpyHtoDAsync_v2(uint64_t to, uint64_t from, uint64_t bytes, uint64_t stream)",
  memcpyDtoH: "int cuMemcpyDtoHAsync_v2(uint64_t to, uint64_t from, uint64_t bytes, uint64_t stream)",
  memcpyDtoD: "int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, uint64_t bytes, uint64_t stream)",
  memsetD8: "int cuMemsetD8Async(uint64_t at, uint8_t value, uint64_t count, uint64_t stream)",
  memsetD16: "int cuMemsetD16Async(uint64_t at, uint16_t value, uint64_t count, uint64_t stream)",
  memsetD32: "int cuMemsetD32Async(uint64_t at, uint32_t value, uint64_t count, uint64_t stream)",
  memAddressReserve:
    "int cuMemAddressReserve(uint64_t *address, uint64_t bytes, uint64_t alignment, uint64_t at, uint64_t flags)",
  memAddressFree: "int cuMemAddressFree(uint64_t address, uint64_t bytes)",
  memRelease: "int cuMemRelease(uint64_t handle)",
  memMap: "int cuMemMap(uint64_t address, uint64_t bytes, uint64_t offset, uint64_t handle, uint64_t flags)",
  memUnmap: "int cuMemUnmap(uint64_t address, uint64_t bytes)",
  memSetAccess: "int cuMemSetAccess(uint64_t address, uint64_t bytes, void *access, uint64_t count)",
  moduleLoadData: "int cuModuleLoadData(uint64_t *module, void *image)",
  moduleGetFunction: "int cuModuleGetFunction(uint64_t *function, uint64_t module, const char *name)",
  moduleUnload: "int cuModuleUnload(uint64_t module)",
  funcSetAttribute: "int cuFuncSetAttribute(uint64_t function, int attribute, int value)",
  tensorMapEncodeTiled:
    "int cuTensorMapEncodeTiled(void *map, int dataType, uint32_t rank, uint64_t address, void *extents, void *strides, void *box, void *elementStrides, int interleave, int swizzle, int l2Promotion, int fill)",
} as const;

/** Calls whose status the caller looks at. */
const raw = {
  getErrorName: "int cuGetErrorName(int status, _Out_ const char **name)",
  getErrorString: "int cuGetErrorString(int status, _Out_ const char **text)",
  eventQuery: "int cuEventQuery(uint64_t event)",
  memCreate: "int cuMemCreate(uint64_t *handle, uint64_t bytes, void *properties, uint64_t flags)",
  launchKernel:
    "int cuLaunchKernel(uint64_t function, uint32_t gridX, uint32_t gridY, uint32_t gridZ, uint32_t blockX, uint32_t blockY, uint32_t blockZ, uint32_t shared, uint64_t stream, uint64_t parameters, uint64_t extra)",
  launchKernelEx: "int cuLaunchKernelEx(void *config, uint64_t function, uint64_t parameters, uint64_t extra)",
} as const;

type Call = (...args: unknown[]) => void;
type RawCall = (...args: unknown[]) => number;
export type Driver = Readonly<Record<keyof typeof prototypes, Call>> &
  Readonly<Record<"eventQuery" | "memCreate" | "launchKernel" | "launchKernelEx", RawCall>> & {
    /** Throws the readable form of a status that is not CUDA_SUCCESS; `during` says more than the call's name. */
    check(call: string, status: number, during?: string): void;
  };

export const CUDA_SUCCESS = 0;
export const CUDA_ERROR_OUT_OF_MEMORY = 2;
export const CUDA_ERROR_NOT_READY = 600;

/** What the driver, NVRTC or cuBLASLt answered instead of success. */
export class CudaError extends Error {
  override readonly name = "CudaError";
  constructor(
    readonly call: string,
    readonly status: number,
    detail: string,
  ) {
    super(`${call}: ${detail}`);
  }
}

let driver: Driver | undefined;

/**
 * Loads and initialises the driver, once.
 * @throws InputError where it is not installed, CudaError where it does not start.
 */
export function cudaDriver(): Driver {
  if (driver) return driver;
  const library = cudaLibrary("cuda");
  const bind = (prototype: string) => library.func(prototype) as RawCall;
  const getErrorName = bind(raw.getErrorName);
  const getErrorString = bind(raw.getErrorString);
  const text = (call: RawCall, status: number) => {
    const out: [string | null] = [null];
    return call(status, out) === CUDA_SUCCESS && out[0] ? out[0] : `status ${status}`;
  };
  const check = (call: string, status: number, during?: string) => {
    if (status === CUDA_SUCCESS) return;
    const detail = `${text(getErrorName, status)} (${text(getErrorString, status)})`;
    throw new CudaError(call, status, during ? `${detail}; ${during}` : detail);
  };
  const calls: Record<string, unknown> = {};
  for (const [name, prototype] of Object.entries(prototypes)) {
    const call = prototype.slice(4, prototype.indexOf("("));
    let fn: RawCall | undefined;
    calls[name] = (...args: unknown[]) => {
      fn ??= bindOr(bind, prototype);
      check(call, fn(...args));
    };
  }
  // Drivers before CUDA 12 lack it.
  let launchKernelEx: RawCall | undefined;
  const made: Driver = {
    ...(calls as Record<keyof typeof prototypes, Call>),
    eventQuery: bind(raw.eventQuery),
    memCreate: bind(raw.memCreate),
    launchKernel: bind(raw.launchKernel),
    launchKernelEx: (...args) => (launchKernelEx ??= bind(raw.launchKernelEx))(...args),
    check,
  };
  made.init(0);
  driver = made;
  return made;
}

/** Drivers before CUDA 13 lack some of the newest entry points; those have an older twin of the same signature. */
function bindOr(bind: (prototype: string) => RawCall, prototype: string): RawCall {
  try {
    return bind(prototype);
  } catch (error) {
    if (!/_v2\(/.test(prototype)) throw error;
    return bind(prototype.replace("_v2(", "("));
  }
}

/** Runs `call` with a one-element array for its result and returns that as a number. */
export function out64(call: (result: BigUint64Array) => void): number {
  const result = new BigUint64Array(1);
  call(result);
  return Number(result[0]);
}

export function out32(call: (result: Int32Array) => void): number {
  const result = new Int32Array(1);
  call(result);
  return result[0];
}
