import { cacheFile, digest, readCached, store } from "./cache.js";
import { CudaError } from "./driver.js";
import { cudaLibrary } from "./libraries.js";

/** CUDA source that is whole: it includes nothing. */
export interface Program {
  /** For messages. */
  readonly name: string;
  readonly source: string;
  /** `sm_80`, `sm_90a`, … */
  readonly architecture: string;
}

type Compiler = (program: Program) => Promise<Uint8Array>;

interface Nvrtc {
  readonly version: string;
  /** Blocks this thread. */
  compile(program: Program): Uint8Array;
  /** Compiles on a thread of the pool, so that several programs compile at once. */
  readonly compileAsync: Compiler;
}

let nvrtc: Nvrtc | undefined;

/** Machine code for a program, from the disk cache or compiled now. */
export function cubin(program: Program): Uint8Array {
  nvrtc ??= bind();
  const path = cachePath(program, nvrtc.version);
  return readCached(path) ?? stored(path, report(program, nvrtc.compile));
}

/** As `cubin`, on another thread. */
export async function cubinAsync(program: Program): Promise<Uint8Array> {
  nvrtc ??= bind();
  const path = cachePath(program, nvrtc.version);
  const cached = readCached(path);
  if (cached) return cached;
  const start = performance.now();
  const image = await nvrtc.compileAsync(program);
  trace(program, start);
  return stored(path, image);
}

export function nvrtcVersion(): string {
  nvrtc ??= bind();
  return nvrtc.version;
}

function stored(path: string, image: Uint8Array): Uint8Array {
  store(path, image);
  return image;
}

function report(program: Program, compile: (program: Program) => Uint8Array): Uint8Array {
  const start = performance.now();
  const image = compile(program);
  trace(program, start);
  return image;
}

function trace({ name, architecture }: Program, start: number): void {
  if (!(Number(process.env.DEBUG) >= 1)) return;
  process.stderr.write(`compiled ${name} for ${architecture} in ${(performance.now() - start).toFixed(0)} ms\n`);
}

function bind(): Nvrtc {
  const library = cudaLibrary("nvrtc");
  type Call = ((...args: unknown[]) => number) & {
    async(...args: [...unknown[], (error: unknown, status: number) => void]): void;
  };
  const call = (prototype: string) => library.func(prototype) as Call;
  const version = call("int nvrtcVersion(int *major, int *minor)");
  const create = call(
    "int nvrtcCreateProgram(uint64_t *program, const char *source, const char *name, int headers, void *contents, void *names)",
  );
  const compile = call("int nvrtcCompileProgram(uint64_t program, int count, const char **options)");
  const cubinSize = call("int nvrtcGetCUBINSize(uint64_t program, uint64_t *bytes)");
  const getCubin = call("int nvrtcGetCUBIN(uint64_t program, void *image)");
  const logSize = call("int nvrtcGetProgramLogSize(uint64_t program, uint64_t *bytes)");
  const getLog = call("int nvrtcGetProgramLog(uint64_t program, void *log)");
  const destroy = call("int nvrtcDestroyProgram(uint64_t *program)");
  const [major, minor] = [new Int32Array(1), new Int32Array(1)];
  version(major, minor);

  const fetch = (handle: BigUint64Array, size: Call, read: Call): Uint8Array => {
    const bytes = new BigUint64Array(1);
    size(handle[0], bytes);
    const data = new Uint8Array(Number(bytes[0]));
    read(handle[0], data);
    return data;
  };
  const begin = ({ name, source }: Program): BigUint64Array => {
    const handle = new BigUint64Array(1);
    const status = create(handle, source, name, 0, null, null);
    if (status !== 0) throw new CudaError("nvrtcCreateProgram", status, `status ${status} for ${name}`);
    return handle;
  };
  const finish = (program: Program, handle: BigUint64Array, status: number): Uint8Array => {
    try {
      if (status === 0) return fetch(handle, cubinSize, getCubin);
      const log = Buffer.from(fetch(handle, logSize, getLog))
        .toString("utf8")
        .replace(/\0+$/, "")
        .trim();
      const hint = /gpu-architecture/.test(log) ? "; this NVRTC does not know the device: install a newer CUDA" : "";
      throw new CudaError("nvrtcCompileProgram", status, `${program.name} does not compile${hint}\n${log}`);
    } finally {
      destroy(handle);
    }
  };
  return {
    version: `${major[0]}.${minor[0]}`,
    compile(program) {
      const handle = begin(program);
      const flags = options(program);
      return finish(program, handle, compile(handle[0], flags.length, flags));
    },
    compileAsync(program) {
      const handle = begin(program);
      const flags = options(program);
      return new Promise((resolve, reject) => {
        compile.async(handle[0], flags.length, flags, (error, status) => {
          if (error) return reject(error);
          try {
            resolve(finish(program, handle, status));
          } catch (failure) {
            reject(failure);
          }
        });
      });
    },
  };
}

function options({ architecture }: Program): string[] {
  // Unmarked functions, lambdas among them, are device functions.
  return [`--gpu-architecture=${architecture}`, "--std=c++17", "--device-as-default-execution-space"];
}

/** A cache file is named after all that its content depends on, so that machines of one kind can share the folder. */
function cachePath(program: Program, version: string): string {
  const key = JSON.stringify([version, options(program), program.source]);
  return cacheFile(`${program.name}-${digest(Buffer.from(key)).toString("hex").slice(0, 32)}.cubin`);
}
