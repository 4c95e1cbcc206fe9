import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { temporaryFolder } from "../../temporary.js";
import { saveBabbler } from "../serve/support.js";
import { start } from "./support.js";

/** The quickstart with the least of everything, no reward model and no warm-up. */
const tiny = [
  ...[
    "model.scratch.layers=1",
    "model.scratch.hiddenSize=16",
    "model.scratch.heads=2",
    "model.scratch.intermediateSize=24",
  ],
  ...["warmup=null", "steps=1", "rollout.prompts=2", "rollout.samples=2", "policy.miniBatch=4", "credit.method=shared"],
  ...["evaluate.conversations=4", "evaluate.probe=0", "device=cpu", "prm.miniBatch=4"],
];

test("eval: a run's last and best policy, side by side; a name that is not there is an error", async (t) => {
  const folder = temporaryFolder(t);
  const run = async (...args: string[]) => start(t, folder, args).ended;
  t.is((await run("train", "quickstart", ...tiny)).code, 0);
  const sample = ["--samples", "2", "--prompts", "3"];
  const [last, best] = await Promise.all([
    run("eval", "runs/quickstart", ...sample, "--output", "last"),
    run("eval", "runs/quickstart", ...sample, "--checkpoint", "best", "--output", "best", "seed=5"),
  ]);
  for (const { code, stdout, stderr } of [last, best]) {
    t.is(code, 0, stderr);
    t.regex(stdout, /3 prompts × 2 samples, 0 of 6 conversations failed/);
    t.regex(stdout, /outcome .*\naccuracy /);
  }
  t.like(JSON.parse(readFileSync(join(folder, "best", "evaluation.json"), "utf8")), {
    seed: 5,
    model: "runs/quickstart/best/policy",
  });
  const { code, stdout } = await run("compare", "last", "best");
  t.is(code, 0);
  t.regex(stdout, /^3 prompts that both have\n +last +best +difference +95 % over prompts\noutcome /);
  t.true(existsSync(join(folder, "best", "against-last.html")));

  const wrong = await run("eval", "runs/quickstart", "--checkpoint", "step-7");
  t.is(wrong.code, 2);
  t.regex(
    wrong.stderr,
    /^itpo: --checkpoint step-7: there is no model in step-7; give last, best or a model folder\n$/,
  );
  const tooMany = await run("eval", "runs/quickstart", "--prompts", "999", "--output", "empty");
  t.is(tooMany.code, 2);
  t.regex(tooMany.stderr, /^itpo: --prompts is 999, but \d+ tasks are held out; lower it\n$/);
  t.false(existsSync(join(folder, "empty")), "nothing is written where nothing can be evaluated");
  const nowhere = await run("eval", "nowhere");
  t.is(nowhere.code, 2);
  t.regex(nowhere.stderr, /^itpo: recipe 'nowhere'/);
  t.regex((await run("compare", "last", "elsewhere")).stderr, /elsewhere.*give a folder that itpo eval wrote/);
});

test("train: a recipe of the paper is checked and printed whole, with a note on what is not there; to run it that must be", async (t) => {
  const folder = temporaryFolder(t);
  await saveBabbler(join(folder, "model"));
  const dry = await start(t, folder, ["train", "medical-itpo-ppo", "--dry-run", "model.path=model"]).ended;
  t.is(dry.code, 0);
  t.regex(dry.stdout, /^name: medical-itpo-ppo$/m);
  t.regex(dry.stdout, /^ +estimator: ppo$/m);
  t.regex(dry.stderr, /^note: environment\.train: datasets\/mtmeddialog\/rl_train\.parquet is not there$/m);
  t.notRegex(dry.stderr, /model\.path/);
  const real = await start(t, folder, ["train", "medical-itpo-ppo", "model.path=model"]).ended;
  t.is(real.code, 2);
  t.regex(
    real.stderr,
    /^itpo: environment\.train: datasets\/mtmeddialog\/rl_train\.parquet is not there; set environment\.train=…\n$/,
  );
});

test("train: code that a model writes is run when a flag says so, whatever a file says", async (t) => {
  const folder = temporaryFolder(t);
  await saveBabbler(join(folder, "model"));
  const command = ["train", "math-itpo-rloo", "--dry-run", "model.path=model", "outcome.metrics={pass_rate: 1}"];
  const named = await start(t, folder, [...command, "environment.allowCodeExecution=true"]).ended;
  t.is(named.code, 2);
  t.is(named.stderr, "itpo: this runs code that a model writes; give --allow-code-execution to allow it\n");
  const allowed = await start(t, folder, [...command, "--allow-code-execution"]).ended;
  t.is(allowed.code, 0, allowed.stderr);
  t.regex(allowed.stdout, /^ +allowCodeExecution: true$/m);
  const idle = await start(t, folder, ["train", "quickstart", "--dry-run", "--allow-code-execution"]).ended;
  t.is(idle.code, 2);
  t.is(idle.stderr, "itpo: --allow-code-execution goes with environment.name simulated; leave it out\n");
});
