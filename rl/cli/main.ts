#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Command, CommanderError, Option } from "commander";
import { InputError } from "../../lib/errors.js";
import type { PrepareCommandOptions } from "./data.js";
import type { ModelDownloadOptions } from "./download.js";
import type { EvalOptions } from "./eval.js";
import type { TrainOptions } from "./train.js";

const { version, description } = JSON.parse(
  readFileSync(fileURLToPath(import.meta.resolve("itpo/package.json")), "utf8"),
) as { version: string; description: string };

const program = new Command("itpo")
  .description(description)
  .version(version)
  .exitOverride()
  .showHelpAfterError("see itpo --help");

program
  .command("train")
  .description("train a policy by reinforcement learning in conversations")
  .argument("[recipe]", "name of a recipe, or a YAML file")
  .argument("[overrides...]", "key.path=value")
  .option("--resume <run>", "go on with a run from its last checkpoint")
  .option("--dry-run", "print the resolved config and end")
  .option("--allow-code-execution", "pass_rate may run the policy's code, in a sandbox")
  .action(async (...args: [string | undefined, string[], TrainOptions]) =>
    (await import("./train.js")).trainCommand(...args),
  );

program
  .command("eval")
  .description("evaluate a run's policy, or a model in a recipe's environment, on held-out tasks")
  .argument("<source>", "folder of a run, name of a recipe, or a YAML file")
  .argument("[overrides...]", "key.path=value")
  .option("--checkpoint <name>", "last (a run's default), best, or a model folder")
  .option("--samples <n>", "conversations for each prompt", "4")
  .option("--prompts <n>", "held-out prompts (default: all)")
  .option("--output <folder>", "where the results go (default: a folder beside the runs)")
  .option("--allow-code-execution", "pass_rate may run the policy's code, in a sandbox")
  .action(async (...args: [string, string[], EvalOptions]) => (await import("./eval.js")).evalCommand(...args));

program
  .command("compare")
  .description("two evaluations side by side")
  .argument("<first>", "folder of an evaluation")
  .argument("<second>", "folder of another")
  .action(async (...args: [string, string]) => (await import("./compare.js")).compareCommand(...args));

program
  .command("sft")
  .description("fine-tune a model on the assistant's turns of dialogues")
  .argument("[recipe]", "name of a recipe, or a YAML file")
  .argument("[overrides...]", "key.path=value")
  .option("--resume <run>", "go on with a run from its last checkpoint")
  .action(async (...args: [string | undefined, string[], { resume?: string }]) =>
    (await import("./sft.js")).sftCommand(...args),
  );

program
  .command("generate")
  .description("continue a prompt, answer a message, or do so for every line of a file")
  .requiredOption("--model <folder>", "Hugging Face model folder")
  .option("--prompt <text>", "text to continue as it stands")
  .option("--message <text>", "user message to answer, in the model's chat format")
  .option("--system <text>", "system message before it")
  .option("--input <file>", 'JSON lines: {"prompt": …} or {"messages": […]}, with id, max_tokens, temperature, seed, n')
  .option("--output <file>", "where the answers to them go, one line each, in the same order")
  .option("--resume", "leave out the lines that the output has already")
  .option("--max-batch <n>", "most lines in flight", "64")
  .option("--max-tokens <n>", "most tokens to draw (default: 256, or what the model has room for)")
  .option("--temperature <t>", "0 takes the most likely token", "1")
  .option("--seed <n>", "seed of the noise", "0")
  .option("--device <name>", "auto, cuda, cuda:1, cpu, tfjs, tfjs:wasm, tfjs:cpu, tfjs:node", "auto")
  .option("--dtype <type>", "f32 or bf16, of weights and activations", "f32")
  .action(async (options) => (await import("./generate.js")).generateCommand(options));

program
  .command("chat")
  .description("a conversation at the terminal, or with the lines that are piped in")
  .requiredOption("--model <folder>", "Hugging Face model folder")
  .option("--system <text>", "system message before it")
  .option("--max-tokens <n>", "most tokens of an answer", "1024")
  .option("--context <n>", "most tokens of a conversation (default: 8192, or what the model allows)")
  .option("--temperature <t>", "0 takes the most likely token", "1")
  .option("--top-p <p>", "draw among the most likely tokens that together have this probability")
  .option("--seed <n>", "seed of the noise (default: another each time)")
  .option("--device <name>", "auto, cuda, cuda:1, cpu, tfjs, tfjs:wasm, tfjs:cpu, tfjs:node", "auto")
  .option("--dtype <type>", "f32 or bf16, of weights and activations", "f32")
  .action(async (options) => (await import("./chat.js")).chatCommand(options));

program
  .command("serve")
  .description("an OpenAI-compatible server")
  .requiredOption("--model <folder>", "Hugging Face model folder")
  .option("--name <name>", "what requests call the model (default: the folder's name)")
  .option("--host <address>", "any but a loopback address needs an API key", "127.0.0.1")
  .option("--port <n>", "0 takes any that is free", "8000")
  .addOption(new Option("--api-key <key>", "what requests must bring").env("ITPO_API_KEY"))
  .option("--max-batch <n>", "most answers drawn at once", "64")
  .option("--max-queue <n>", "most requests that wait for them; the next is told to come again", "256")
  .option("--max-tokens <n>", "most tokens of an answer whose request does not say", "1024")
  .option("--max-seconds <s>", "most seconds of an answer, which is cut there (default: no limit)")
  .option("--context <n>", "most tokens of a conversation (default: what the model allows)")
  .option("--cache <GiB>", "most memory for keys and values, though at least one whole context", "1")
  .option("--device <name>", "auto, cuda, cuda:1, cpu, tfjs, tfjs:wasm, tfjs:cpu, tfjs:node", "auto")
  .option("--dtype <type>", "f32 or bf16, of weights and activations", "f32")
  .action(async (options) => (await import("./serve.js")).serveCommand(options));

program
  .command("score")
  .description("log-probabilities and entropies of token sequences")
  .requiredOption("--model <folder>", "Hugging Face model folder")
  .requiredOption("--input <file>", 'JSON: {"sequences": [[ids…], …]}')
  .requiredOption("--output <file>", 'JSON: {"logprobs": [[…]], "entropy": [[…]]}')
  .option("--device <name>", "auto, cuda, cuda:1, cpu, tfjs, tfjs:wasm, tfjs:cpu, tfjs:node", "auto")
  .option("--dtype <type>", "f32 or bf16, of weights and activations", "f32")
  .action(async (options) => (await import("./score.js")).scoreCommand(options));

program
  .command("data")
  .description("datasets")
  .command("prepare")
  .description("make files for training and fine-tuning of a dataset, split by conversation")
  .argument("<name>", "math-hard, medium, bigcodebench (each also with -large), mtmeddialog")
  .option("--input <path>", "parquet, JSON or JSONL file, or a folder of them (default: download it from the Hub)")
  .option("--validation <path>", "hold out the conversations of this file or folder, instead of a share")
  .option("--output <folder>", "where the files go (default: datasets/NAME)")
  .option("--held-out <share>", "share of the conversations to hold out, or from 1 on how many", "0.1")
  .option("--seed <n>", "another one holds out others", "42")
  .option("--task-desc <text>", "what the simulated user is told that the task is (default: by dataset)")
  .option("--keep-shared-openings", "keep tasks that open alike but ask for different things")
  .option("--revision <name>", "branch, tag or commit to download", "main")
  .action(async (...args: [string, PrepareCommandOptions]) => (await import("./data.js")).prepareCommand(...args));

program
  .command("model")
  .description("models")
  .command("download")
  .description("fetch a model from the Hugging Face Hub; goes on where an earlier call was cut off")
  .argument("<repo>", "OWNER/NAME, such as Qwen/Qwen2.5-0.5B-Instruct")
  .option("--output <folder>", "where the files go (default: the model's name)")
  .option("--revision <name>", "branch, tag or commit", "main")
  .action(async (...args: [string, ModelDownloadOptions]) =>
    (await import("./download.js")).modelDownloadCommand(...args),
  );

program
  .command("doctor")
  .description("devices, engines, libraries and versions found on this machine")
  .action(async () => (await import("./doctor.js")).doctorCommand());

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}

/** Prints an error and gives the exit code: 2 for what the user can mend, 1 for everything else. */
function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if (error instanceof InputError) {
    process.stderr.write(`itpo: ${error.message.replace(/\s*\n\s*/g, " ")}\n`);
    return 2;
  }
  process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : error}\n`);
  return 1;
}
