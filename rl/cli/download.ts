import { basename, join } from "node:path";
import { type DownloadOptions, downloadRepo } from "../../data/hub.js";
import { readConfig } from "../../models/index.js";
import { formatBytes, progressLine } from "./progress.js";

export interface ModelDownloadOptions {
  readonly output?: string;
  readonly revision?: string;
}

/** Weights, configuration and tokenizer; neither other formats of the weights nor what lies in folders. */
const MODEL_FILE = /^[^/]+\.(safetensors|json|txt|model|jinja)$/;

/** `itpo model download REPO`. */
export async function modelDownloadCommand(repo: string, options: ModelDownloadOptions): Promise<void> {
  const folder = options.output ?? basename(repo);
  await downloadWithProgress({
    type: "model",
    repo,
    folder,
    revision: options.revision,
    wants: (path) => MODEL_FILE.test(path),
    // It is small and comes first: a model that cannot be used is told before its weights are fetched.
    onFile: async (path) => {
      if (path === "config.json") await readConfig(folder);
    },
  });
  process.stdout.write(`${folder} is ready: --model ${folder}, or model.path=${folder} in a configuration\n`);
}

/** Downloads with a line of progress, and says at the end what came. @returns the files. */
export async function downloadWithProgress(options: DownloadOptions): Promise<string[]> {
  const line = progressLine();
  const start = performance.now();
  let total = 0;
  try {
    const files = await downloadRepo({
      ...options,
      onProgress(progress) {
        total = progress.total;
        const share = `${formatBytes(progress.bytes)} of ${formatBytes(total)}`;
        line.show(`${progress.file}  ${share}  ${Math.round((performance.now() - start) / 1000)} s`);
      },
    });
    line.clear();
    const count = files.length === 1 ? "1 file" : `${files.length} files`;
    process.stderr.write(
      `${options.repo}: ${count}, ${formatBytes(total)}, checksums right, in ${join(options.folder, "/")}\n`,
    );
    return files;
  } finally {
    line.clear();
  }
}
