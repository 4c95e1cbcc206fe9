import test from "ava";
import { chartGroups } from "../../../rl/report/curves.js";

const charts = (values: Readonly<Record<string, number>>) =>
  chartGroups(
    [1, 2].map((step) => ({ step, time: step, ...values })),
    [],
  ).map(({ title, charts }) => [title, charts.map((chart) => chart.title)] as const);

test("a critic's curves stand together, before the policy's", (t) => {
  const groups = charts({
    "policy/kl": 0.1,
    "critic/vf_clipfrac": 0.2,
    "critic/vf_loss": 0.3,
    "critic/vf_explained_var": 0.4,
    "critic/vpred_mean": 0.5,
    "time/critic": 1,
  });
  t.deepEqual(groups.slice(0, 2), [
    ["Critic", ["Critic loss", "Explained variance", "Mean value", "Vf clipfrac"]],
    ["Policy", ["KL to the reference"]],
  ]);
});

test("a run without a critic or a reward model has no group for them", (t) => {
  const titles = charts({ "outcome/mean": 0.5, "policy/kl": 0.1 }).map(([title]) => title);
  t.deepEqual(titles, ["Outcome and credit", "Policy"]);
});

test("a metric that nobody named has a chart of its own, in the group of its prefix", (t) => {
  t.deepEqual(charts({ "weights/effective_turns": 2 }), [["Weights", ["Effective turns"]]]);
});
