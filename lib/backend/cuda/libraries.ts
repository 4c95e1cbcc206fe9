import { existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { InputError } from "../../errors.js";
import { type Library, openLibrary } from "../../ffi.js";

/** The shared libraries of the CUDA backend: the driver and what comes with the toolkit. */
export type CudaLibraryName = "cuda" | "nvrtc" | "cublasLt" | "nccl";

interface Known {
  readonly files: readonly string[];
  /** Folder of the library's wheel under `site-packages/nvidia`. */
  readonly wheels: readonly string[];
  readonly remedy: string;
}

const known: Readonly<Record<CudaLibraryName, Known>> = {
  cuda: { files: ["libcuda.so.1"], wheels: [], remedy: "install NVIDIA's driver" },
  nvrtc: {
    files: ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
    wheels: ["cu13", "cuda_nvrtc"],
    remedy: "install the CUDA toolkit, or pip install nvidia-cuda-nvrtc",
  },
  cublasLt: {
    files: ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
    wheels: ["cu13", "cublas"],
    remedy: "install the CUDA toolkit, or pip install nvidia-cublas",
  },
  nccl: { files: ["libnccl.so.2"], wheels: ["nccl"], remedy: "install NCCL, or pip install nvidia-nccl-cu13" },
};

/** A library that was not found: where it was sought, what installs it. */
export interface MissingLibrary {
  readonly tried: readonly string[];
  readonly remedy: string;
}

export const cudaLibraryNames = Object.keys(known) as CudaLibraryName[];

const opened = new Map<CudaLibraryName, Library | MissingLibrary>();

/**
 * Opens a library, once: from the folders in `ITPO_CUDA_LIBRARY_PATH` (separated by `:`), the CUDA toolkit
 * (`CUDA_HOME`, /usr/local/cuda), the wheels in Python's site-packages and the loader's path, in this order.
 * @throws InputError which names the library, where it was sought and what installs it.
 */
export function cudaLibrary(name: CudaLibraryName): Library {
  const found = findCudaLibrary(name);
  if (!("tried" in found)) return found;
  throw new InputError(
    `cuda: ${known[name].files[0]} was not found: ${found.remedy}, or name its folder in ITPO_CUDA_LIBRARY_PATH; ` +
      `sought: ${found.tried.join("; ")}`,
  );
}

/** As `cudaLibrary`, but says what was tried instead of throwing. */
export function findCudaLibrary(name: CudaLibraryName): Library | MissingLibrary {
  let library = opened.get(name);
  if (!library) {
    const { files, remedy } = known[name];
    const paths = folders(known[name]).flatMap((folder) => files.map((file) => join(folder, file)));
    if (name === "nvrtc") openBuiltins(paths);
    const result = openLibrary([...paths.filter((path) => existsSync(path)), ...files]);
    library = "tried" in result ? { ...result, remedy } : result;
    opened.set(name, library);
  }
  return library;
}

/** NVRTC asks the loader for a second library by name: one that is open already is found wherever it lies. */
function openBuiltins(paths: readonly string[]): void {
  const folder = paths
    .map(dirname)
    .find((candidate) => existsSync(candidate) && /nvrtc/.test(readdirSync(candidate).join()));
  if (!folder) return;
  const builtins = readdirSync(folder).filter((file) => /^libnvrtc-builtins\.so\.\d+\.\d+$/.test(file));
  openLibrary(builtins.map((file) => join(folder, file)));
}

function folders({ wheels }: Known): string[] {
  const listed = (process.env.ITPO_CUDA_LIBRARY_PATH ?? "").split(":").filter((folder) => folder !== "");
  const homes = [process.env.CUDA_HOME, process.env.CUDA_PATH, "/usr/local/cuda"].filter((home) => home !== undefined);
  const toolkit = homes.flatMap((home) => [join(home, "lib64"), join(home, "targets/x86_64-linux/lib")]);
  const packages = sitePackages().flatMap((site) => wheels.map((wheel) => join(site, "nvidia", wheel, "lib")));
  return [...listed, ...toolkit, ...packages];
}

/** Folders in which Python keeps packages: of the active environment, then the system's. */
function sitePackages(): string[] {
  const prefixes = [process.env.VIRTUAL_ENV, process.env.CONDA_PREFIX, "/opt/venv", "/usr/local", "/usr"];
  return prefixes.flatMap((prefix) => {
    const lib = prefix && join(prefix, "lib");
    if (!lib || !existsSync(lib)) return [];
    return readdirSync(lib)
      .filter((name) => name.startsWith("python3"))
      .flatMap((name) => [join(lib, name, "site-packages"), join(lib, name, "dist-packages")]);
  });
}
