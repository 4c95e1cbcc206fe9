import { existsSync, readFileSync } from "node:fs";
import test from "ava";
import { AdamW, Arena, type Backend, clipScale, createCpu, gradNorm, openDevice } from "../../lib/index.js";
import { generate, huggingFaceViews, loadQwen, type Qwen, score } from "../../models/index.js";
import { cudaTest, openCuda } from "../lib/backend/cuda/support.js";
import { fixture } from "../support.js";
import { compare, fixtureLoss, fixtureModels, loadExpected, maxDifference } from "./fixtures.js";

const devices: Record<string, () => Backend | Promise<Backend>> = {
  cpu: () => createCpu({ poison: true }),
  "cpu composed": () => createCpu({ poison: true, composed: true }),
  tfjs: () => openDevice("tfjs:wasm"),
  cuda: openCuda,
};
const testOn = (device: string): typeof cudaTest => (device === "cuda" ? cudaTest : test);

for (const [device, open] of Object.entries(devices)) {
  for (const name of fixtureModels) {
    testOn(device)(
      `${name} on ${device}: logprobs, entropy, loss, gradients and three AdamW steps equal transformers'`,
      async (t) => {
        const backend = await open();
        const model = await loadQwen(fixture(name), { backend });
        const expected = await loadExpected(name);

        const scores = await score(model, expected.sequences);
        expected.sequences.forEach((sequence, i) => {
          const n = sequence.length;
          t.true(maxDifference(scores.logprobs[i], expected.row("logprobs", i, n - 1)) < 1e-4);
          t.true(maxDifference(scores.entropy[i], expected.row("entropy", i, n)) < 1e-4);
        });

        const optimizer = new AdamW(model.parameters, { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1 });
        for (const [step, lossName] of ["loss", "loss_step1", "loss_step2"].entries()) {
          using arena = new Arena();
          const loss = arena.run(() => fixtureLoss(model, expected));
          const value = await loss.item();
          const reference = expected.values(lossName)[0];
          t.true(
            Math.abs(value - reference) <= (step === 0 ? 1e-5 : 1e-4) * Math.abs(reference),
            `${lossName} ${value} ${reference}`,
          );
          arena.run(() => loss.backward());
          const norm = await gradNorm(model.parameters);
          if (step === 0) {
            t.true(Math.abs(norm - expected.values("grad_norm")[0]) < 1e-4 * norm);
            await compareGradients(model, expected, (message, ok) => t.true(ok, message));
          }
          optimizer.step({ gradScale: clipScale(norm, 0.5) });
          optimizer.zeroGrad();
        }
        const views = huggingFaceViews(model.config, model.parameters);
        const given = expected.names.filter((part) => part.startsWith("after3."));
        t.true(given.length >= 3);
        for (const part of given) {
          const { relative } = compare(await views.get(part.slice("after3.".length))!.data(), expected.values(part));
          t.true(relative < 1e-3, `${part}: ${relative}`);
        }
      },
    );

    testOn(device)(`${name} on ${device}: greedy decoding with the KV cache equals transformers'`, async (t) => {
      const backend = await open();
      const model = await loadQwen(fixture(name), { backend });
      const expected = await loadExpected(name);
      const prompt = expected.sequences[0].slice(0, 8);
      const [completion] = await generate(model, [prompt], { maxTokens: 24, temperature: 0, stopIds: [], pageSize: 4 });
      t.deepEqual([...prompt, ...completion.ids], [...expected.values("greedy")]);

      // transformers leaves the padding token out of what the model sees.
      const seen = prompt.filter((id) => id !== model.config.padTokenId);
      const { logprobs } = await score(model, [[...seen, ...completion.ids]]);
      t.true(maxDifference(completion.logprobs, logprobs[0].slice(seen.length - 1)) < 1e-4);
    });
  }
}

/** By fixture and parameter: ‖gradient − exact‖ / ‖exact‖ of PyTorch in bf16; made by test/tools/torchBf16Errors.py. */
type Bf16Errors = Readonly<Record<string, Readonly<Record<string, number>>>>;

const bf16File = fixture("bf16-errors.json");
const bf16Errors = existsSync(bf16File) ? (JSON.parse(readFileSync(bf16File, "utf8")) as Bf16Errors) : undefined;

for (const device of ["cpu", "cuda"]) {
  for (const name of fixtureModels) {
    const title = `${name} on ${device}, bf16: every gradient's error is at most twice that of PyTorch's bf16`;
    const run: typeof cudaTest = bf16Errors ? testOn(device) : test.skip;
    run(title, async (t) => {
      const backend = await devices[device]();
      const model = await loadQwen(fixture(name), { backend, dtype: "bf16" });
      const expected = await loadExpected(name);
      using arena = new Arena();
      arena.run(() => fixtureLoss(model, expected).backward());
      const gradients = new Map([...model.parameters].map(([key, parameter]) => [key, parameter.grad!]));
      const views = [...huggingFaceViews(model.config, gradients)];
      const compared = await Promise.all(
        views.map(async ([key, view]) => ({ key, ...compare(await view.data(), expected.values(`grad.${key}`)) })),
      );
      const largest = Math.max(...compared.map(({ norm }) => norm));
      t.deepEqual(
        compared.filter(({ key }) => bf16Errors![name][key] === undefined),
        [],
      );
      for (const { key, relative, norm } of compared) {
        const allowed = 2 * bf16Errors![name][key];
        t.true(relative <= allowed || norm < 1e-6 * largest, `${key}: ${relative}, PyTorch ${allowed / 2}`);
      }
    });
  }
}

async function compareGradients(
  model: Qwen,
  expected: Awaited<ReturnType<typeof loadExpected>>,
  check: (message: string, ok: boolean) => void,
): Promise<void> {
  const gradients = new Map([...model.parameters].map(([name, parameter]) => [name, parameter.grad!]));
  const views = [...huggingFaceViews(model.config, gradients)];
  const compared = await Promise.all(
    views.map(async ([name, view]) => ({ name, ...compare(await view.data(), expected.values(`grad.${name}`)) })),
  );
  const largest = Math.max(...compared.map(({ norm }) => norm));
  for (const { name, relative, cosine, norm } of compared) {
    check(`gradient of ${name}: relative error ${relative}`, relative < 1e-3 || norm < 1e-6 * largest);
    check(`gradient of ${name}: cosine ${cosine}`, cosine > 0.9999 || norm <= 0.01 * largest);
  }
  check(
    "every gradient tensor is compared",
    views.length === expected.names.filter((n) => n.startsWith("grad.")).length,
  );
}
