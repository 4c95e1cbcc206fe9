/**
 * The page's style sheet. Colours are variables, once for light and once for dark. The curves follow Okabe and Ito's
 * palette, and rewards are blue or red, so that no reading depends on telling red from green.
 */
export const STYLE = `
:root {
  color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #16191d; --soft: #5b6470; --line: #dfe3e8;
  --faint: #eef0f3; --accent: #0060a8; --positive: #1f6fb5; --negative: #c0342b; --star: #8a5a00;
  --star-back: #fff0cf; --s1: #0072b2; --s2: #d55e00; --s3: #00805f; --s4: #b0538a; --s5: #8a6d00; --s6: #2f95c8;
  --s7: #5b6470;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #111418; --card: #1a1e24; --ink: #e7eaee; --soft: #9aa4b0; --line: #313842; --faint: #242a32;
    --accent: #6cb8f2; --positive: #5aaef0; --negative: #f2786d; --star: #f4c766; --star-back: #3d3114;
    --s1: #56b4e9; --s2: #f0883e; --s3: #2fc79b; --s4: #e08fbf; --s5: #e3cf4a; --s6: #9ad4f5; --s7: #9aa4b0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 24px clamp(12px, 3vw, 32px) 48px; max-width: 1360px; background: var(--page);
  color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
h1 {
  font-size: 26px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; display: flex; flex-wrap: wrap;
  align-items: center; gap: 4px 14px;
}
h2 { font-size: 18px; margin: 36px 0 12px; }
h3 {
  font-size: 12px; font-weight: 600; margin: 20px 0 8px; color: var(--soft); text-transform: uppercase;
  letter-spacing: .06em;
}
h4 { font-size: 15px; margin: 0; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 12px; top: 8px; background: var(--card); padding: 4px 8px; }
header dl { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 8px 0 0; }
header dl div { display: flex; gap: 6px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.state {
  font-size: 13px; font-weight: 600; padding: 2px 10px; border-radius: 99px; border: 1px solid var(--line);
  white-space: nowrap; color: var(--soft); background: var(--card);
}
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(205px, 1fr)); gap: 12px; margin: 20px 0 0;
  padding: 0; list-style: none;
}
.tiles li, .chart, .panel { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tiles li { padding: 12px 14px; }
.tiles .name { font-size: 13px; color: var(--soft); }
.tiles .note { font-size: 13px; color: var(--soft); }
.tiles .value { font-size: 22px; font-weight: 650; line-height: 1.25; white-space: nowrap; }
.tiles .value .from { color: var(--soft); font-weight: 400; }
.tiles table {
  border-collapse: collapse; width: 100%; font-size: 13px; margin-top: 4px; white-space: normal;
  overflow-wrap: anywhere;
}
.tiles th { font-weight: 400; text-align: left; padding: 0; color: var(--ink); }
.tiles td { text-align: right; font-weight: 650; padding: 0; }
.charts { display: flex; flex-wrap: wrap; gap: 12px; }
.chart {
  margin: 0; padding: 12px 14px 8px; flex: 1 1 max(270px, calc(100% / var(--columns) - 12px)); min-width: 0;
  display: flex; flex-direction: column;
}
.chart.wide { flex: 2 1 max(270px, calc(200% / var(--columns) - 12px)); }
.chart:only-child:not(.wide) { max-width: max(50%, 340px); }
figcaption { display: flex; flex-wrap: wrap; align-items: baseline; column-gap: 8px; }
figcaption p { margin: 0; flex-basis: 100%; font-size: 13px; color: var(--soft); }
.at { margin-left: auto; font-size: 13px; color: var(--soft); }
.legend {
  list-style: none; display: flex; flex-wrap: wrap; gap: 0 14px; margin: 4px 0 10px; padding: 0; font-size: 13px;
}
.key {
  display: inline-block; width: 14px; height: 3px; border-radius: 2px; background: currentColor;
  vertical-align: 4px; margin-right: 5px;
}
.s1 { color: var(--s1); }
.s2 { color: var(--s2); }
.s3 { color: var(--s3); }
.s4 { color: var(--s4); }
.s5 { color: var(--s5); }
.s6 { color: var(--s6); }
.s7, .chance { color: var(--s7); }
.plot { display: grid; grid-template: "y area" 168px "x-name x" 20px / 44px 1fr; margin-top: auto; }
.y { grid-area: y; position: relative; }
.x { grid-area: x; position: relative; }
.x-name { grid-area: x-name; justify-self: end; padding: 6px 10px 0 0; }
.y span, .x span, .x-name { font-size: 12px; line-height: 1; color: var(--soft); }
.y span, .x span { position: absolute; }
.y span { right: 8px; transform: translateY(-50%); }
.x span { top: 6px; transform: translateX(-50%); white-space: nowrap; }
.area { grid-area: area; position: relative; border-radius: 3px; touch-action: pan-y; cursor: crosshair; }
.area svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.area path {
  fill: none; stroke: currentColor; vector-effect: non-scaling-stroke; stroke-width: 2; stroke-linejoin: round;
}
.area .grid { stroke: var(--line); stroke-width: 1; }
.area .raw { stroke-width: 1; opacity: .35; }
.area .dots { stroke-width: 6; stroke-linecap: round; }
.area .level { stroke: var(--soft); stroke-width: 1.25; stroke-dasharray: 6 4; }
.area .line.chance { stroke-dasharray: 2 3; stroke-width: 1.5; }
.level-label {
  position: absolute; right: 4px; transform: translateY(-105%); font-size: 12px; line-height: 1.2;
  color: var(--soft); white-space: nowrap; background: color-mix(in srgb, var(--card) 75%, transparent);
  padding: 0 2px; border-radius: 3px;
}
.level-label.left { right: auto; left: 4px; }
.cross { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--soft); pointer-events: none; }
.mark {
  position: absolute; width: 9px; height: 9px; margin: -4.5px; border-radius: 50%; background: currentColor;
  border: 2px solid var(--card); pointer-events: none;
}
select, button {
  font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 7px;
  padding: 4px 10px; min-height: 34px; max-width: 100%;
}
select { max-width: 240px; }
button { cursor: pointer; }
button:hover { border-color: var(--soft); }
button:disabled { opacity: .45; cursor: default; }
.bar { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; margin-bottom: 12px; }
.bar label { display: flex; gap: 6px; align-items: center; font-size: 14px; }
.bar .count { color: var(--soft); font-size: 14px; margin-left: auto; }
.viewer { display: grid; grid-template-columns: 270px minmax(0, 1fr); gap: 12px; align-items: start; }
.list { max-height: min(76vh, 760px); overflow-y: auto; padding: 6px; position: sticky; top: 8px; }
.list button {
  display: grid; grid-template-columns: 1fr auto 52px; gap: 8px; align-items: center; width: 100%;
  text-align: left; border-color: transparent; padding: 4px 8px; font-size: 14px;
}
.list button[aria-current=true] { background: var(--faint); border-color: var(--accent); }
.list small { color: var(--soft); }
.list .empty { padding: 8px; color: var(--soft); }
.spark { display: flex; height: 26px; gap: 2px; align-items: stretch; }
.spark i {
  flex: 1; max-width: 9px; position: relative;
  background: linear-gradient(var(--line), var(--line)) center / 100% 1px no-repeat;
}
.spark i::after {
  content: ""; position: absolute; left: 0; right: 0; background: var(--positive); bottom: 50%;
  height: calc(50% * var(--size)); border-radius: 1px;
}
.spark i.negative::after { background: var(--negative); bottom: auto; top: 50%; }
.talk { padding: 16px clamp(12px, 2vw, 20px); min-height: 200px; }
.talk:empty { display: none; }
.talk header { display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: baseline; margin-bottom: 4px; }
.talk header h4 { font-size: 16px; }
.talk header h4::first-letter { text-transform: uppercase; }
.facts { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0 0 12px; font-size: 14px; }
.facts div { display: flex; gap: 5px; }
.verdict { margin: 0 0 12px; font-size: 14px; }
.message {
  margin: 0 0 8px; padding: 8px 14px 10px; border-radius: 10px; background: var(--faint); max-width: 82ch;
  width: fit-content; min-width: min(100%, 12ch);
}
.message.system { max-width: none; background: none; border: 1px dashed var(--line); color: var(--soft); }
.message.assistant {
  max-width: none; width: auto; background: none; border: 1px solid var(--line); display: grid;
  grid-template-columns: minmax(0, 1fr) minmax(320px, 30%); column-gap: 20px;
}
.message.largest { border-color: var(--accent); box-shadow: inset 3px 0 var(--accent); }
.who {
  display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: center; font-size: 13px; font-weight: 600;
  color: var(--soft);
}
.who .end { font-weight: 400; }
.assistant > .who, .assistant > .text { grid-column: 1; }
.assistant > .credit { grid-column: 2; grid-row: 1 / 3; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 2px 0 0; }
.useful {
  color: var(--star); background: var(--star-back); border-radius: 99px; padding: 0 9px; white-space: nowrap;
}
.credit { font-size: 13px; padding-top: 2px; }
.gauge { position: relative; height: 16px; border-radius: 4px; background: var(--faint); overflow: hidden; }
.gauge::after {
  content: ""; position: absolute; left: 50%; top: 0; bottom: 0; width: 1px; background: var(--soft);
}
.gauge i {
  position: absolute; top: 2px; bottom: 2px; left: 50%; width: calc(50% * var(--size));
  background: var(--positive); border-radius: 0 3px 3px 0;
}
.gauge i.negative { left: auto; right: 50%; background: var(--negative); border-radius: 3px 0 0 3px; }
.numbers { display: flex; flex-wrap: wrap; gap: 0 10px; margin-top: 4px; color: var(--soft); }
.numbers b { color: var(--ink); }
.numbers b.positive { color: var(--positive); }
.numbers b.negative { color: var(--negative); }
.token { border-radius: 3px; }
:is(.message:hover, .message:focus-visible, .shaded) .token {
  background: color-mix(in srgb, var(--positive) calc(60% * var(--size)), transparent);
}
:is(.message:hover, .message:focus-visible, .shaded) .token.negative {
  background: color-mix(in srgb, var(--negative) calc(60% * var(--size)), transparent);
}
.config { columns: 3 320px; column-gap: 12px; }
.config table {
  width: 100%; border-collapse: separate; border-spacing: 0; font-size: 14px; padding: 6px 0; margin: 0 0 12px;
  break-inside: avoid;
}
.config caption { text-align: left; font-size: 13px; font-weight: 600; color: var(--soft); padding: 0 2px 4px; }
.config th, .config td {
  text-align: left; vertical-align: top; padding: 2px 14px; font-weight: 400; overflow-wrap: anywhere;
}
.config th { width: 45%; color: var(--soft); }
.config td {
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 13px;
  white-space: pre-wrap;
}
.figures { overflow-x: auto; margin-bottom: 12px; }
.figures table { border-collapse: separate; border-spacing: 0; font-size: 14px; padding: 6px 0; }
.figures th, .figures td { padding: 2px 14px; font-weight: 400; text-align: right; white-space: nowrap; }
.figures th { color: var(--soft); }
.figures th[scope="row"] { text-align: left; }
.pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 12px; margin: 8px 0 16px; }
.pair > .panel { padding: 10px 14px; }
.pair pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: 0 0 8px; }
footer { margin-top: 28px; font-size: 13px; color: var(--soft); }
@media (max-width: 760px) {
  .viewer { grid-template-columns: minmax(0, 1fr); }
  .list { max-height: 208px; position: static; }
  .bar .count { margin-left: 0; }
  .message.assistant { grid-template-columns: minmax(0, 1fr); }
  .assistant > .credit { grid-column: 1; grid-row: auto; margin-top: 8px; }
  .plot { grid-template-columns: 40px 1fr; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 8px; }
  .tiles li { padding: 10px 12px; }
  .tiles .value { font-size: 19px; }
}
@media print {
  .bar, .list { display: none; }
  .viewer { display: block; }
  body { background: none; }
}
`;
