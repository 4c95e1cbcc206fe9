#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Command, CommanderError } from "commander";
import { InputError } from "../../lib/errors.js";

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
  .action(async (...args: [string | undefined, string[], { resume?: string; dryRun?: boolean }]) =>
    (await import("./train.js")).trainCommand(...args),
  );

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
  .description("continue a prompt, or answer a message")
  .requiredOption("--model <folder>", "Hugging Face model folder")
  .option("--prompt <text>", "text to continue as it stands")
  .option("--message <text>", "user message to answer, in the model's chat format")
  .option("--system <text>", "system message before it")
  .option("--max-tokens <n>", "most tokens to draw (default: 256, or what the model has room for)")
  .option("--temperature <t>", "0 takes the most likely token", "1")
  .option("--seed <n>", "seed of the noise", "0")
  .option("--device <name>", "auto, cuda, cuda:1, cpu, tfjs, tfjs:wasm, tfjs:cpu, tfjs:node", "auto")
  .option("--dtype <type>", "f32 or bf16, of weights and activations", "f32")
  .action(async (options) => (await import("./generate.js")).generateCommand(options));

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
