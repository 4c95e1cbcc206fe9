import { join } from "node:path";
import test from "ava";
import { prepare } from "../../../../data/prepare.js";
import { createCpu, InputError } from "../../../../lib/index.js";
import { loadTrainConfig } from "../../../../rl/config.js";
import type { SimulatedConfig } from "../../../../rl/environments/simulated/config.js";
import { openSimulation } from "../../../../rl/environments/simulated/open.js";
import { fixture } from "../../../support.js";
import { temporaryFolder } from "../../../temporary.js";

test("tasks without tests are refused before the first conversation where pass_rate is wanted", async (t) => {
  const folder = temporaryFolder(t);
  await prepare("math-hard", { input: fixture("data", "collab-math.parquet"), output: folder, heldOut: 0.3 });
  const config = await loadTrainConfig("math-itpo-rloo", [
    `environment.train=${join(folder, "rl_train.parquet")}`,
    `environment.heldOut=${join(folder, "rl_validation.parquet")}`,
    ...["outcome.metrics={pass_rate: 1}", "environment.allowCodeExecution=true"],
  ]);
  await t.throwsAsync(openSimulation(config.environment as SimulatedConfig, config, createCpu()), {
    instanceOf: InputError,
    message: /rl_train\.parquet: row 0 has no single_turn_metadata\.test for pass_rate to run/,
  });
});
