import { type ChildProcess, execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { promisify } from "node:util";
import { InputError } from "../../lib/index.js";

/** What code may use up before it is ended. */
export interface SandboxLimits {
  /** Wall clock, in seconds. Default 20. */
  readonly seconds?: number;
  /** Address space of each process, in MiB. Default 2048. */
  readonly memory?: number;
  /** Processes and threads at once. Default 64. */
  readonly processes?: number;
  /** Size of the one writable folder, in memory, and of each file, in MiB. Default 64. */
  readonly files?: number;
}

export interface SandboxOptions {
  /** Nothing runs without it: the code is a model's. */
  readonly allowCodeExecution: boolean;
  /** The interpreter, whose packages the code may use. Default `python3`, or the system's where that will not do. */
  readonly python?: string;
}

/** Runs Python with nothing of this machine but its libraries, to be read. */
export interface Sandbox {
  /** Feeds a program its standard input and gives what it writes, at most a mebibyte, and how it ends. */
  run(program: string, input: string, limits?: SandboxLimits): Promise<SandboxResult>;
}

export interface SandboxResult {
  readonly output: string;
  /** Null where a signal ended it, as the time limit does. */
  readonly code: number | null;
  readonly timedOut: boolean;
}

const MOST_OUTPUT = 2 ** 20;
const MEBIBYTE = 2 ** 20;

/**
 * Opens a sandbox by bubblewrap: no network, no other processes in sight, no files but the system's and Python's
 * libraries, read-only, and an empty folder in memory; a user without rights, no environment variables, and limits on
 * time, memory, processes and files. It is as tight as Linux namespaces are, not as a virtual machine. Under root it
 * runs as nobody, who must be able to read the interpreter.
 * @throws InputError where code execution was not allowed, or bubblewrap, the right to use it or Python is missing.
 */
export async function openSandbox({ allowCodeExecution, python }: SandboxOptions): Promise<Sandbox> {
  if (!allowCodeExecution) {
    throw new InputError("pass_rate runs code that a model wrote; allow it by --allow-code-execution, or leave it out");
  }
  const command = await firstThatRuns(python === undefined ? ["python3", "/usr/bin/python3"] : [python]);
  return {
    run(program, input, { seconds = 20, memory = 2048, processes = 64, files = 64 } = {}) {
      const limited = `${limitsOf({ seconds, memory, processes, files })}\n${program}`;
      const child = spawn("bwrap", [...command(files), limited], { ...USER, stdio: ["pipe", "pipe", "ignore"] });
      return finish(child, input, seconds);
    },
  };
}

/** Linux lets root have as many processes as it likes, so that root's sandboxes are nobody's. */
const NOBODY = 65534;
const USER = { cwd: "/", ...(process.getuid?.() === 0 ? { uid: NOBODY, gid: NOBODY } : {}) };

type Command = (files: number) => string[];

/** The arguments of bubblewrap with the first of the interpreters that runs inside; the program's text follows them. */
async function firstThatRuns(interpreters: readonly string[]): Promise<Command> {
  await outputOf("bwrap", ["--version"], "pass_rate needs bubblewrap: apt install bubblewrap");
  let failure: unknown;
  for (const python of interpreters) {
    try {
      const command = await commandFor(python);
      await outputOf("bwrap", [...command(1), "print()"], `${python} does not run in bubblewrap (bwrap)`);
      return command;
    } catch (error) {
      failure ??= error;
    }
  }
  throw failure;
}

async function commandFor(python: string): Promise<Command> {
  const ask = "import sys; print(sys.executable, sys.prefix, sys.base_prefix, sep='\\n')";
  const said = await outputOf(python, ["-I", "-c", ask], `pass_rate needs Python, which does not run as '${python}'`);
  const [interpreter, ...folders] = said.trim().split("\n");
  const fixed = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives"];
  const paths = [...fixed, ...folders].filter((path) => path !== "/" && existsSync(path));
  const mounts = [...new Set(paths)].flatMap((path) => ["--ro-bind", path, path]);
  const isolation = [
    "--unshare-all",
    "--unshare-user",
    "--uid",
    `${NOBODY}`,
    "--gid",
    `${NOBODY}`,
    "--cap-drop",
    "ALL",
  ];
  return (files) => [
    ...isolation,
    ...["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"],
    ...mounts,
    ...["--proc", "/proc", "--dev", "/dev", "--size", `${files * MEBIBYTE}`, "--tmpfs", "/tmp", "--chdir", "/tmp"],
    ...["--setenv", "HOME", "/tmp", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "LANG", "C.UTF-8"],
    ...[interpreter, "-I", "-c"],
  ];
}

async function outputOf(command: string, args: readonly string[], otherwise: string): Promise<string> {
  try {
    return (await promisify(execFile)(command, args, { timeout: 30_000, ...(command === "bwrap" ? USER : {}) })).stdout;
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string };
    throw new InputError(`${otherwise} (${(stderr?.trim() || message).split("\n").at(-1)})`);
  }
}

/** What the sandboxed Python does first: hard limits, which it cannot raise again. */
function limitsOf({ seconds, memory, processes, files }: Required<SandboxLimits>): string {
  const limits = {
    RLIMIT_CPU: Math.ceil(seconds),
    RLIMIT_AS: memory * MEBIBYTE,
    RLIMIT_NPROC: processes,
    RLIMIT_FSIZE: files * MEBIBYTE,
    RLIMIT_CORE: 0,
  };
  const lines = Object.entries(limits).map(([name, n]) => `resource.setrlimit(resource.${name}, (${n}, ${n}))`);
  return ["import resource", ...lines].join("\n");
}

function finish(child: ChildProcess, input: string, seconds: number): Promise<SandboxResult> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    let timedOut = false;
    const kill = () => child.kill("SIGKILL");
    const clock = setTimeout(() => {
      timedOut = true;
      kill();
    }, seconds * 1000);
    child.stdout!.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      size += chunk.length;
      if (size > MOST_OUTPUT) kill();
    });
    child.stdin!.on("error", () => {}); // It may end before it has read everything.
    child.stdin!.end(input);
    child.on("error", (error) => {
      clearTimeout(clock);
      reject(error);
    });
    child.on("close", (code) => {
      clearTimeout(clock);
      resolve({ output: Buffer.concat(chunks).toString("utf8"), code, timedOut });
    });
  });
}
