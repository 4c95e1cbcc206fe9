/** Choosing and showing a conversation. The one shown is in the page's address, so that a reload keeps it. */
export const CONVERSATION_SCRIPT = `
const { transcripts, rewardScale, tokenScale } = readJson("transcripts");

/** Gives an element its value's sign and its size on a scale, from which the style sheet draws a bar or a shade. */
function sized(element, value, scale) {
  element.style.setProperty("--size", scale > 0 ? Math.min(1, Math.abs(value) / scale).toFixed(3) : 0);
  element.classList.toggle("negative", value < 0);
  return element;
}

function hidden(element) {
  element.setAttribute("aria-hidden", "true");
  return element;
}

function signed(value) {
  const number = node("b", (value < 0 ? "\\u2212" : "+") + formatNumber(Math.abs(value)));
  number.classList.add(value < 0 ? "negative" : "positive");
  return number;
}

function listItem(transcript, isCurrent, choose) {
  const { name, place, outcome, messages } = transcript;
  const rewards = messages.flatMap((entry) => entry.reward ?? []);
  const spark = hidden(node("span.spark", ...rewards.map((reward) => sized(node("i"), reward, rewardScale))));
  const label = node("span", name + " ", node("small", place));
  const button = node("button", label, node("b", formatNumber(outcome)), spark);
  button.type = "button";
  button.setAttribute("aria-label", name + " " + place + ", outcome " + formatNumber(outcome));
  button.tabIndex = isCurrent ? 0 : -1;
  if (isCurrent) button.setAttribute("aria-current", "true");
  button.addEventListener("click", () => choose(transcript, true));
  return button;
}

function showList(shown, current, choose) {
  const box = byId("list");
  const scrolled = box.scrollTop;
  box.replaceChildren(...shown.map((transcript) => listItem(transcript, transcript === current, choose)));
  const item = box.querySelector("[aria-current]");
  if (!item) return box.append(node("p.empty", "No conversation matches."));
  const top = item.offsetTop - box.firstChild.offsetTop;
  box.scrollTop = Math.min(top, Math.max(scrolled, top + item.offsetHeight + 14 - box.clientHeight));
}

function messageBox({ kind, speaker, content, tokens, useful, stop, reward, advantage, weight, largest }) {
  const who = node("div.who", speaker);
  if (useful) who.append(node("span.useful", "\\u2605 truly useful turn"));
  if (stop) who.append(node("span.end", stop));
  const shades = (tokens ?? []).map(([text, score]) => {
    const token = sized(node("span.token", text), score ?? 0, tokenScale);
    token.title = signed(score ?? 0).textContent;
    return token;
  });
  const box = node("article.message." + kind, who, node("p.text", ...(shades.length > 0 ? shades : [content])));
  box.classList.toggle("largest", largest === true);
  if (shades.length > 0) box.tabIndex = 0;
  const numbers = node("div.numbers");
  if (reward !== undefined) numbers.append(node("span", "reward ", signed(reward)));
  if (advantage !== undefined) numbers.append(node("span", "advantage ", signed(advantage)));
  if (weight !== undefined) numbers.append(node("span", "share ", node("b", formatNumber(weight))));
  const bar = reward === undefined ? undefined : hidden(node("div.gauge", sized(node("i"), reward, rewardScale)));
  if (numbers.hasChildNodes()) box.append(node("div.credit", bar, numbers));
  return box;
}

function showConversation({ name, task, sample, outcome, metrics, stop, verdict, messages }) {
  const facts = [["outcome", node("b", formatNumber(outcome))]];
  for (const [metric, value] of Object.entries(metrics)) facts.push([metric.replaceAll("_", " "), formatNumber(value)]);
  facts.push(["end", stop]);
  const head = node("header", node("h4", name), node("span", "task " + task + ", sample " + sample));
  const list = node("dl.facts", ...facts.map(([fact, value]) => node("div", node("dt", fact), node("dd", value))));
  byId("talk").replaceChildren(head, list, node("p.verdict", verdict), ...messages.map(messageBox));
}

if (transcripts.length > 0) {
  const [stage, outcome, previous, next] = ["stage", "outcome", "previous", "next"].map(byId);
  const address = (transcript) => "#" + encodeURIComponent(transcript.id);
  let shown = [];
  let current = transcripts.find((transcript) => address(transcript) === location.hash) ?? transcripts.at(-1);
  const update = () => {
    const matches = (select, value) => select.value === "" || select.value === value;
    shown = transcripts.filter((each) => matches(stage, each.stage) && matches(outcome, each.band));
    if (!shown.includes(current)) current = shown[0];
    showList(shown, current, choose);
    if (current) showConversation(current);
    else byId("talk").replaceChildren();
    const place = shown.indexOf(current);
    byId("count").textContent = current ? place + 1 + " of " + shown.length : "none";
    previous.disabled = place <= 0;
    next.disabled = place >= shown.length - 1;
  };
  const choose = (transcript, focus) => {
    current = transcript;
    history.replaceState(null, "", address(transcript));
    update();
    if (focus) document.querySelector("#list [aria-current]").focus({ preventScroll: true });
  };
  const move = (by, focus) => {
    const to = shown[shown.indexOf(current) + by];
    if (to) choose(to, focus);
  };
  for (const select of [stage, outcome]) select.addEventListener("change", update);
  previous.addEventListener("click", () => move(-1, false));
  next.addEventListener("click", () => move(1, false));
  byId("list").addEventListener("keydown", (event) => {
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    move(by, true);
  });
  byId("shade")?.addEventListener("change", (event) => byId("talk").classList.toggle("shaded", event.target.checked));
  update();
}
`;
