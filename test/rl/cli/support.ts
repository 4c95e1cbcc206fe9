import { type ChildProcess, spawn } from "node:child_process";
import type { ExecutionContext } from "ava";
import { cli } from "../support.js";

/** The command line as it runs. */
export interface Running {
  readonly child: ChildProcess;
  readonly stdout: () => string;
  readonly stderr: () => string;
  readonly ended: Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }>;
}

/** Starts the command line in a folder, with a pipe for its input. */
export function start(
  t: ExecutionContext,
  folder: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Running {
  const child = spawn(process.execPath, [cli, ...args], { cwd: folder, env: { ...process.env, ...env } });
  t.teardown(() => child.kill("SIGKILL"));
  const out = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text) => (out[name] += text));
  }
  child.stdin.on("error", () => {});
  const ended = new Promise<Awaited<Running["ended"]>>((resolve) => {
    child.on("close", (code) => resolve({ code, ...out }));
  });
  return { child, stdout: () => out.stdout, stderr: () => out.stderr, ended };
}
