/**
 * Reading values off the charts: the step under the pointer, or chosen with the arrow keys, is marked in every chart,
 * and every legend shows its values there. Without one, legends show the last values.
 */
export const CHART_SCRIPT = `
const { charts, x: [firstStep, lastStep] } = readJson("charts");
const allSteps = [...new Set(charts.flatMap((chart) => chart.series.flatMap((series) => series.steps)))];
allSteps.sort((a, b) => a - b);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const percent = (value, [low, high]) => (100 * (value - low)) / (high - low);

const figures = [...document.querySelectorAll("figure[data-chart]")].map((figure, index) => {
  const area = figure.querySelector(".area");
  const legend = [...figure.querySelectorAll(".legend li")];
  const cross = node("i.cross");
  const marks = legend.map((item) => node("i.mark." + item.querySelector(".key").classList[1]));
  area.append(cross, ...marks);
  const title = figure.querySelector("h4").textContent;
  const slider = { tabindex: 0, role: "slider", "aria-valuemin": firstStep, "aria-valuemax": lastStep };
  for (const [name, value] of Object.entries(slider)) area.setAttribute(name, value);
  area.setAttribute("aria-label", title + ", by step");
  const values = legend.map((item) => item.querySelector("b"));
  return { area, cross, marks, values, at: figure.querySelector(".at"), ...charts[index] };
});

/** Index of the step nearest to a given one, by bisection. */
function nearest(steps, step) {
  let low = 0;
  let high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low > 0 && step - steps[low - 1] <= steps[low] - step ? low - 1 : low;
}

let pointed;
function pointAt(step) {
  pointed = step;
  for (const { area, cross, marks, values, at, series, y } of figures) {
    const readings = series.map((curve, i) => {
      const index = step === undefined ? curve.steps.length - 1 : nearest(curve.steps, step);
      const value = curve.values[index];
      values[i].textContent = formatNumber(value);
      marks[i].hidden = step === undefined || value === null;
      marks[i].style.left = percent(curve.steps[index], [firstStep, lastStep]) + "%";
      marks[i].style.top = 100 - percent(value, y) + "%";
      return curve.name + " " + formatNumber(value);
    });
    const shown = step ?? lastStep;
    cross.hidden = step === undefined;
    cross.style.left = percent(shown, [firstStep, lastStep]) + "%";
    at.textContent = step === undefined ? "" : "step " + step;
    area.setAttribute("aria-valuenow", shown);
    area.setAttribute("aria-valuetext", "step " + shown + ": " + readings.join(", "));
  }
}

for (const { area } of figures) {
  const follow = (event) => {
    const box = area.getBoundingClientRect();
    const share = clamp((event.clientX - box.left) / box.width, 0, 1);
    pointAt(allSteps[nearest(allSteps, firstStep + share * (lastStep - firstStep))]);
  };
  for (const name of ["pointermove", "pointerdown"]) area.addEventListener(name, follow);
  for (const name of ["pointerleave", "blur"]) area.addEventListener(name, () => pointAt());
  area.addEventListener("keydown", (event) => {
    const end = allSteps.length - 1;
    const now = pointed === undefined ? end : nearest(allSteps, pointed);
    const far = Math.ceil(end / 10);
    const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -far, PageUp: far };
    const to = { Home: 0, End: end }[event.key] ?? now + moves[event.key];
    if (event.key === "Escape") pointAt();
    if (Number.isNaN(to)) return;
    event.preventDefault();
    pointAt(allSteps[clamp(to, 0, end)]);
  });
}
pointAt();
`;
