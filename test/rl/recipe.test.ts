import { writeFileSync } from "node:fs";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { InputError } from "../../lib/index.js";
import { loadTrainConfig } from "../../rl/config.js";
import { readRecipe, recipeNames } from "../../rl/recipe.js";
import { temporaryFolder } from "../temporary.js";

const tasks = ["math", "document", "medical"];
const methods = ["baseline", "prime", "itpo", "norm-itpo"];
const estimators = ["rloo", "grpo", "ppo"] as const;

test("every task comes with every method and every estimator", async (t) => {
  const names = await recipeNames();
  for (const task of tasks) {
    for (const method of methods) {
      for (const estimator of estimators) {
        const name = `${task}-${method}-${estimator}`;
        t.true(names.includes(name), name);
        const config = await loadTrainConfig(name);
        t.is(config.name, name);
        t.is(config.advantage.estimator, estimator);
      }
    }
  }
});

/** Section by section what the reference's scripts set: credit, β, coefficients and learning rate. */
const reference: readonly (readonly [name: string, credit: object, beta: number | undefined, lr: number])[] = [
  ["math-baseline-rloo", { method: "shared", coefficient: 5, outcomeCoefficient: 0 }, undefined, 1e-6],
  ["math-itpo-rloo", { method: "itpo", coefficient: 5, outcomeCoefficient: 0 }, 0.05, 1e-6],
  ["math-norm-itpo-rloo", { method: "norm_itpo", form: "mean", coefficient: 5, temperature: 0.4 }, 0.01, 1e-6],
  ["document-itpo-rloo", { method: "itpo", coefficient: 15 }, 0.005, 5e-7],
  ["document-norm-itpo-rloo", { method: "norm_itpo", coefficient: 15, temperature: 0.4 }, 0.005, 5e-7],
  ["medical-itpo-rloo", { method: "itpo", coefficient: 5, outcomeCoefficient: 5 }, 0.0035, 5e-7],
  ["medical-norm-itpo-rloo", { method: "norm_itpo", coefficient: 10, outcomeCoefficient: 0 }, 0.005, 5e-7],
];
for (const [name, credit, beta, lr] of reference) {
  test(`${name} has the values of the reference's script`, async (t) => {
    const config = await loadTrainConfig(name);
    t.like(config.credit, credit);
    if (beta !== undefined) t.is(config.prm.beta, beta);
    t.is(config.policy.lr, lr);
    t.like(config.advantage, { form: "reference", normalise: "whiten" });
    t.like(config.policy, { clipLow: 0.2, clipHigh: 0.2, dualClip: 3, kl: 0.001, entropy: 0.001, weightDecay: 0.01 });
    t.like(config.prm, { lr: 1e-6, gradClip: 10, miniBatch: 4, update: "before", loss: "ce", norm: "batch" });
    t.like(config.rollout, { prompts: 16, samples: 8, temperature: 1 });
    t.is(config.outcome.wordPenalty, 5e-5);
  });
}

function write(t: ExecutionContext, files: Readonly<Record<string, string>>): string {
  const folder = temporaryFolder(t);
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  return folder;
}

test("a file goes on top of what it extends, key by key; lists and other kinds of things are replaced", async (t) => {
  const folder = write(t, {
    "a.yaml":
      "policy: { lr: 1, betas: [0.1, 0.2] }\nmodel: { path: x }\nenvironment: { name: one, key: 1 }\nuser: { server: { url: u } }",
    "b.yaml":
      "extends: a.yaml\npolicy: { betas: [0.5] }\nmodel: { scratch: { layers: 1 } }\nenvironment: { name: two }",
    "c.yaml": "extends: [a.yaml, b.yaml]\nuser: { local: { path: p } }\npolicy: { lr: null }",
  });
  t.deepEqual(await readRecipe(join(folder, "b.yaml")), {
    policy: { lr: 1, betas: [0.5] },
    model: { scratch: { layers: 1 } },
    environment: { name: "two" },
    user: { server: { url: "u" } },
  });
  t.like(await readRecipe(join(folder, "c.yaml")), {
    policy: { lr: null, betas: [0.5] },
    user: { local: { path: "p" } },
  });
  t.deepEqual(((await readRecipe(join(folder, "c.yaml"))) as { user: object }).user, { local: { path: "p" } });
});

test("a file of one's own extends a recipe by name", async (t) => {
  const folder = write(t, { "mine.yaml": "extends: math-itpo-grpo\nname: mine\nsteps: 7" });
  const config = await loadTrainConfig(join(folder, "mine.yaml"));
  t.like(config, { name: "mine", steps: 7, credit: { method: "itpo" }, advantage: { estimator: "grpo" } });
});

test("local takes the place of server by an override, and both at once are refused", async (t) => {
  const { environment } = await loadTrainConfig("math-itpo-rloo", ["environment.user.local.path=DIR"]);
  t.true(environment.name === "simulated" && environment.user.server === undefined);
  await t.throwsAsync(
    loadTrainConfig("math-itpo-rloo", ["environment.user.local.path=DIR", "environment.user.server.model=m"]),
    { instanceOf: InputError, message: /environment\.user has both server and local; take one away/ },
  );
});

const mistakes: Record<string, readonly [override: string, message: RegExp]> = {
  "a metric that nobody has": ["outcome.metrics={beauty: 1}", /no metric 'beauty' .*there are accuracy/],
  "a metric to report that nobody has": ["environment.report=[beauty]", /no metric 'beauty'/],
  "a judge's scores of turns as an outcome": ["outcome.metrics={judge: 1}", /no metric 'judge'/],
  "code that nobody may run": ["outcome.metrics={pass_rate: 1}", /allow it with --allow-code-execution/],
  "a server that is none": ["environment.user.server.url=localhost", /environment\.user\.server\.url/],
  "an attempt longer than its call": ["environment.judge.timeout=500", /judge\.timeout is longer than its deadline/],
  "a last turn thrown away of one": ["rollout={discardLast: true, maxTurns: 1}", /rollout\.maxTurns to at least 2/],
  "no user": ["environment.user=", /environment\.user/],
};
for (const [what, [override, message]] of Object.entries(mistakes)) {
  test(`${what} (${override}) is refused before anything loads`, async (t) => {
    await t.throwsAsync(loadTrainConfig("math-itpo-rloo", [override]), { instanceOf: InputError, message });
  });
}

test("what cannot be extended is refused", async (t) => {
  const folder = write(t, {
    "a.yaml": "extends: b.yaml",
    "b.yaml": "extends: a.yaml",
    "c.yaml": "extends: 3",
    "d.yaml": "extends: x",
  });
  const refused = (file: string, message: RegExp) =>
    t.throwsAsync(readRecipe(join(folder, file)), { instanceOf: InputError, message });
  await refused("a.yaml", /a\.yaml: extends itself/);
  await refused("c.yaml", /extends must name recipes or files/);
  await refused("d.yaml", /recipe 'x': there is none of that name/);
});
