import { basename, resolve } from "node:path";
import { checkExposure } from "../serve/access.js";
import { Engine } from "../serve/engine.js";
import { startServer } from "../serve/server.js";
import { type ModelOptions, openModel } from "./model.js";
import { numberOption, optionalNumber } from "./number.js";

/** Serves until it is asked to end; a second request cuts what is in flight. */
export async function serveCommand(
  options: ModelOptions & {
    readonly name?: string;
    readonly host: string;
    readonly port: string;
    readonly apiKey?: string;
    readonly maxBatch: string;
    readonly maxQueue: string;
    readonly maxTokens: string;
    readonly maxSeconds?: string;
    readonly context?: string;
    readonly cache: string;
  },
): Promise<void> {
  const { host, apiKey } = options;
  const port = numberOption("--port", options.port, { least: 0, most: 65535 });
  const maxBatch = numberOption("--max-batch", options.maxBatch, { least: 1, most: 4096 });
  const maxQueue = numberOption("--max-queue", options.maxQueue, { least: 0, most: 65536 });
  const maxTokens = numberOption("--max-tokens", options.maxTokens, { least: 1 });
  const maxSeconds = optionalNumber("--max-seconds", options.maxSeconds, { least: 0.001, whole: false });
  const context = optionalNumber("--context", options.context, { least: 2 });
  const cacheGiB = numberOption("--cache", options.cache, { least: 0, whole: false });
  checkExposure(host, apiKey);
  const { backend, model, tokenizer } = await openModel(options);
  const engine = new Engine({ model, tokenizer, context, maxBatch, cacheGiB });
  const name = options.name ?? basename(resolve(options.model));
  const server = await startServer({ engine, model: name, host, port, apiKey, maxQueue, maxTokens, maxSeconds });
  process.stdout.write(`${name} on ${backend.name} at ${server.url}/v1; Ctrl-C ends it\n`);
  await new Promise<void>((ended) => {
    let grace: number | undefined;
    const end = () => {
      process.stderr.write(grace === 0 ? "" : "\nending after the requests in flight; once more to cut them\n");
      server.close(grace).then(ended);
      grace = 0;
    };
    process.on("SIGINT", end).on("SIGTERM", end);
  });
  engine.dispose();
  backend.close();
}
