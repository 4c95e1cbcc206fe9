import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ExecutionContext } from "ava";
import type { SimulatedTask } from "../../../../rl/environments/simulated/environment.js";
import type { ChatModel } from "../../../../rl/llm/chatModel.js";
import { createSpeaker, type Speaker } from "../../../../rl/llm/speaker.js";
import { temporaryFolder } from "../../../temporary.js";

/** Tasks that the tiny policy has words for. */
export function someTasks(count: number, first = 0): SimulatedTask[] {
  return Array.from({ length: count }, (_, i) => ({
    prompt: [{ role: "user", content: "help with paint" }],
    groundTruth: `answer ${first + i}`,
    singleTurnPrompt: `the secret of task ${first + i}`,
    taskDesc: "choosing paint",
  }));
}

/** Writes tasks as `itpo data prepare` does, as JSON lines. */
export function tasksFile(t: ExecutionContext, tasks: readonly SimulatedTask[]): string {
  const path = join(temporaryFolder(t), "tasks.jsonl");
  const rows = tasks.map(({ prompt, groundTruth, singleTurnPrompt, taskDesc }, i) => ({
    prompt,
    ground_truth: groundTruth,
    raw_prompt: prompt,
    extra_info: {
      prompt,
      interaction_kwargs: { name: "collabllm", single_turn_prompt: singleTurnPrompt, task_desc: taskDesc },
    },
    reward_model: { ground_truth: groundTruth, style: "rule" },
    data_source: "collabllm",
    agent_name: "itpo_collabllm_agent",
    index: `${i}`,
  }));
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return path;
}

/** A model that says what a function says, and remembers what it was asked. */
export function scriptedModel(
  reply: (prompt: string) => string,
): ChatModel & { readonly prompts: string[]; readonly seeds: number[] } {
  const [prompts, seeds]: [string[], number[]] = [[], []];
  return {
    name: "scripted",
    prompts,
    seeds,
    async complete({ messages, sampling }) {
      prompts.push(messages[0].content);
      seeds.push(sampling.seed);
      return { text: reply(messages[0].content), finish: "stop", promptTokens: 1, completionTokens: 1 };
    },
  };
}

/** A speaker that waits for nothing. */
export function promptSpeaker(role: string, model: ChatModel): Speaker {
  const limits = { concurrency: 8, timeout: 30, deadline: 60, retries: 0 };
  return createSpeaker({ role, model, sampling: { temperature: 0, maxTokens: 64 }, ...limits });
}

/** A user's reply in its form. */
export function saying(response: string): string {
  return JSON.stringify({ current_answer: "", thought: "", response });
}
