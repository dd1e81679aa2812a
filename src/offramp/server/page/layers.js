/* The layer table of one token: what every exit would have said in its place.
   In:  the answer of /v1/trace (offramp.trace.values.Traced as JSON). Out: a table.
   Law: words of a model are set as text, never as HTML. */

import { paint, readable } from "./tokens.js";

const percent = (p) => (p >= 0.9995 ? "100" : (p * 100).toFixed(p < 0.0995 ? 1 : 0));
const fixed = (value) => (value === null || value === undefined ? "∞" : value.toFixed(2));

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function head(most) {
  const row = make("tr");
  row.append(make("th", "Exit", { scope: "col", class: "narrow" }));
  const agrees = make("th", "", { scope: "col", class: "narrow" });
  agrees.append(make("abbr", "✓", { title: "agrees: its best token is the last layer's" }));
  row.append(agrees);
  for (let i = 1; i <= most; i += 1) {
    row.append(make("th", i === 1 ? "Best token" : `${i}.`, { scope: "col", class: i === 1 ? "best" : "" }));
  }
  for (const [name, title, kind] of [
    ["KL", "divergence of the last layer from this exit, nats", "figure narrow"],
    ["Entropy", "of the exit's distribution, nats", "figure entropy"],
  ]) {
    const cell = make("th", "", { scope: "col", class: kind });
    cell.append(make("abbr", name, { title }));
    row.append(cell);
  }
  const group = make("thead");
  group.append(row);
  return group;
}

/* With the space that many tokens begin with: "air" is another token than " air". */
const shown = ({ id, text }) => (text?.trim() ? text.replaceAll("\n", "↵") : readable(text ?? `#${id}`));

function candidate({ token, probability }, chosen) {
  const cell = make("td", "", { class: "candidate" });
  const word = make("span", shown(token), { class: "word", title: shown(token) });
  if (token.id === chosen) {
    cell.classList.add("chosen");
    word.append(make("span", " (written)", { class: "unseen" }));
  }
  cell.style.setProperty("--p", probability);
  const line = make("div");
  line.append(word, make("span", percent(probability), { class: "p" }));
  cell.append(line);
  return cell;
}

function row(said, most, { depth, token }) {
  const exit = said.exit === "original" ? depth : said.exit;
  const element = paint(make("tr"), exit, depth);
  const name = make("th", "", { scope: "row" });
  name.append(make("span", String(exit), { class: "chip" }));
  if (exit === depth) name.append(make("span", " whole model", { class: "unseen" }));
  if (exit === token.exit) {
    element.className = "left-here";
    name.append(make("span", " the token left here", { class: "unseen" }));
  }
  const agrees = make("td", "", { class: "agrees" });
  agrees.append(make("span", said.agrees ? "✓" : "·", { "aria-hidden": "true" }));
  agrees.append(make("span", said.agrees ? "agrees" : "does not agree", { class: "unseen" }));
  element.append(name, agrees);
  for (let i = 0; i < most; i += 1) {
    element.append(said.top[i] ? candidate(said.top[i], token.id) : make("td"));
  }
  element.append(make("td", fixed(said.divergence), { class: "figure" }));
  element.append(make("td", fixed(said.entropy), { class: "figure entropy" }));
  return element;
}

function summary(said, depth) {
  const numbers = said.map(({ exit }) => (exit === "original" ? depth : exit));
  let from = said.length;
  while (from > 0 && said[from - 1].agrees) from -= 1;
  if (from === 0) return "Every exit agrees with the last layer here.";
  if (from < said.length - 1) return `From exit ${numbers[from]} on, every exit agrees with the last layer.`;
  const below = said.slice(0, -1);
  const agreeing = below.filter(({ agrees }) => agrees).length;
  if (!agreeing) return "No exit below the last layer agrees with it here.";
  return `${agreeing} of ${below.length} exits agree with the last layer, the one right below it does not.`;
}

function contrasted(changed) {
  if (!changed) return [];
  const named = ({ token, probability }) =>
    `${readable(token.text ?? `#${token.id}`)} (${percent(probability)} %)`;
  const size = changed.num_plausible ? ` Plausible tokens: ${changed.num_plausible}.` : "";
  const what = changed.changed
    ? `The contrast turned ${named(changed.before)} into ${named(changed.after)}.`
    : `The contrast kept ${named(changed.after)}.`;
  return [make("p", what + size, { class: "hint" })];
}

/** Fill an element with the layer table. */
export function showLayers(home, traced, { token, position }) {
  const said = position.said;
  const most = Math.max(0, ...said.map(({ top }) => top.length));
  const table = make("table");
  table.append(make("caption", "Best tokens of every exit", { class: "unseen" }), head(most));
  const body = make("tbody");
  body.append(...said.map((one) => row(one, most, { depth: traced.depth, token })));
  table.append(body);
  const region = { tabindex: "0", role: "region", "aria-label": "Layer table" };
  const frame = make("div", "", { class: "scroll", ...region });
  frame.append(table);
  const left = token.exit === traced.depth ? "Went through all layers" : `Left at exit ${token.exit}`;
  const reading = "Exits from the shallowest on, best tokens first, their probabilities in percent.";
  home.replaceChildren(
    make("p", `${left}. ${summary(said, traced.depth)}`, { class: "summary" }),
    ...contrasted(position.changed),
    frame,
    make("p", reading, { class: "hint" }),
  );
}
