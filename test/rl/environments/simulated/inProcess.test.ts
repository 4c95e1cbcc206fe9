import test, { type ExecutionContext } from "ava";
import { createCpu } from "../../../../lib/index.js";
import { simulatedEnvironment } from "../../../../rl/environments/simulated/environment.js";
import type { ChatModel } from "../../../../rl/llm/chatModel.js";
import { localModel } from "../../../../rl/llm/localModel.js";
import { createSpeaker } from "../../../../rl/llm/speaker.js";
import { Engine } from "../../../../rl/serve/engine.js";
import { Trainer } from "../../../../rl/trainer.js";
import { talker, tinyTraining } from "../../support.js";
import { saying, someTasks } from "./support.js";

/** A tiny model writes no JSON: what it writes is put into the form that was asked for. */
function inForm(model: ChatModel): ChatModel {
  return {
    name: model.name,
    async complete(call, signal) {
      const reply = await model.complete(call, signal);
      const isJudge = call.messages[0].content.startsWith("You grade");
      const form = isJudge ? { thought: reply.text, accuracy: reply.text.length % 2 } : undefined;
      return { ...reply, text: form ? JSON.stringify(form) : saying(`${reply.text} red`) };
    },
  };
}

/** Two steps of ITPO whose policy, user and judge share one backend, on which what was freed is NaN. */
async function twoSteps(t: ExecutionContext, concurrency: number) {
  const backend = createCpu({ poison: true });
  const { policy, chat, tokenizer } = talker({ backend });
  const { policy: other } = talker({ backend, seed: 2, maxPositions: 1024 });
  const engine = new Engine({ model: other, tokenizer, maxBatch: concurrency });
  t.teardown(() => engine.dispose());
  const model = inForm(localModel(engine, "tiny"));
  const limits = { concurrency, timeout: 300, deadline: 600, retries: 0 };
  const environment = simulatedEnvironment({
    train: someTasks(5),
    heldOut: someTasks(2, 50),
    metrics: ["accuracy"],
    user: createSpeaker({ role: "user", model, sampling: { temperature: 1, maxTokens: 6 }, ...limits }),
    judge: createSpeaker({ role: "judge", model, sampling: { temperature: 1, maxTokens: 9 }, ...limits }),
  });
  const config = await tinyTraining(t, "rollout.maxFailures=0", "rollout.maxTokens=90");
  const trainer = new Trainer(config, { policy, chat, environment });
  return { steps: [await trainer.step(1), await trainer.step(2)], engine };
}

test("policy, user and judge in one process: conversations, judgements and ITPO steps, whatever is drawn together", async (t) => {
  const [together, apart] = [await twoSteps(t, 16), await twoSteps(t, 1)];
  for (const [i, { metrics, trajectories }] of together.steps.entries()) {
    for (const [name, value] of Object.entries(metrics)) t.true(Number.isFinite(value), `${name} is ${value}`);
    t.is(metrics["rollout/failed"], 0);
    t.is(metrics["judge/calls"], 9);
    t.true(metrics["user/completion_tokens"] > 0 && metrics["policy/grad_norm"] >= 0 && metrics["prm/loss"] > 0);
    t.deepEqual(
      trajectories.map(({ messages, metrics }) => [messages, metrics]),
      apart.steps[i].trajectories.map(({ messages, metrics }) => [messages, metrics]),
    );
  }
  t.true(together.engine.idle);
});
