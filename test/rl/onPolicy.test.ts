import test from "ava";
import { loadTrainConfig } from "../../rl/config.js";
import { readMetrics } from "../../rl/report/metrics.js";
import { train } from "../../rl/run.js";
import { temporaryFolder } from "../temporary.js";

test("the quickstart's first update of each step has importance ratio 1, for every token and to the bit", async (t) => {
  const config = await loadTrainConfig("quickstart", [
    ...["device=cpu", `output=${temporaryFolder(t)}`, "steps=3", "warmup.steps=60"],
    ...["prm.leadSteps=0", "evaluate.conversations=16", "evaluate.probe=0"],
  ]);
  t.true(config.policy.miniBatch < config.rollout.prompts * config.rollout.samples);
  const { folder } = await train(config, { print: () => {}, stream: { write: () => {} } });
  const steps = readMetrics(folder).filter(({ step }) => step > 0);
  t.is(steps.length, 3);
  for (const metrics of steps) {
    t.is(metrics["policy/first_ratio"], 1);
    t.is(metrics["policy/first_off_policy"], 0);
    // The second mini-batch is scored with weights that the first one changed.
    t.true(metrics["policy/off_policy"]! > 0.4, `${metrics["policy/off_policy"]} of the tokens`);
    t.not(metrics["policy/ratio"], 1);
  }
});
