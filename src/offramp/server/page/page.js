/* The page: ask for texts, watch them come, open layers, compare, share.
   In:  what the reader types, the server's JSON. Out: requests, elements.
   Law: whatever fails is said in words beside where it happened; nothing that was typed is lost.
   Not here: requests (talk.js), tokens (tokens.js), lanes (lane.js), links (link.js). */

import { asked } from "./decodings.js";
import { Lane } from "./lane.js";
import { fromHash, toHash } from "./link.js";
import { Panel } from "./panel.js";
import { Trouble, stream, talk, useKey } from "./talk.js";
import { hideTip } from "./tokens.js";

const by = (id) => document.getElementById(id);
const FIELDS = ["prompt", "tokens", "temperature", "seed"];
const SAMPLES = {
  chat: "Why is the sky blue? Answer in two sentences.",
  completion: "The old lighthouse keeper",
  elmer: "lighthouse",
};

let models = [];
let running = null; // an AbortController while texts are being written

const panel = new Panel();
const lanes = ["A", "B"].map(
  (letter) => new Lane(letter, { changed: () => remember(), choose: (lane, index) => panel.open(lane, index) }),
);
by("lanes").append(...lanes.map((lane) => lane.element));

const model = () => models.find(({ id }) => id === by("model").value) ?? models[0];
const shown = () => (by("compare").checked && model().kind !== "elmer" ? lanes : lanes.slice(0, 1));
const mode = () => document.querySelector("[name=mode]:checked").value;

/* ---------------------------------------------------------------- state and link */

function state() {
  const fields = Object.fromEntries(FIELDS.map((name) => [name, by(name).value]));
  const two = shown().map(({ decoding, settings }) => ({ decoding, settings }));
  return { ...fields, mode: mode(), model: model().id, lanes: two };
}

let pending;
function remember() {
  clearTimeout(pending);
  pending = setTimeout(() => models.length && history.replaceState(null, "", toHash(state())), 250);
}

function restore(from) {
  for (const name of FIELDS) {
    const number = by(name).type === "number";
    const broken = from[name] === undefined || (number && Number.isNaN(Number(from[name])));
    if (!broken) by(name).value = from[name];
  }
  for (const radio of document.getElementsByName("mode")) radio.checked ||= radio.value === from.mode;
  if (models.some(({ id }) => id === from.model)) by("model").value = from.model;
  by("compare").checked = from.lanes.length > 1;
  fit();
  from.lanes.forEach(({ decoding, settings }, i) => lanes[i].choose(decoding, settings));
}

/** Fit the form to the model that is chosen. */
function fit() {
  const { kind, depth, exits, id, chat } = model();
  const elmer = kind === "elmer";
  for (const part of document.querySelectorAll("[data-causal]")) {
    part.hidden = elmer;
    part.querySelector("input").disabled = elmer; // what is hidden must not keep the form back
  }
  by("mode").hidden = elmer || !chat;
  if (!elmer && !chat) document.querySelector("[name=mode][value=completion]").checked = true;
  by("model-field").hidden = models.length < 2;
  by("about").textContent = `${models.length < 2 ? `${id} · ` : ""}${depth} layers, ${exits.length} exits`;
  by("prompt").placeholder = elmer ? SAMPLES.elmer : SAMPLES[mode()];
  for (const lane of lanes) {
    if (lane.model === model()) continue;
    panel.empty();
    lane.offer(model());
  }
  arrange();
}

function arrange() {
  lanes[1].element.hidden = shown().length < 2;
  by("lanes").classList.toggle("two", shown().length > 1);
  document.body.classList.toggle("comparing", shown().length > 1);
}

/* ---------------------------------------------------------------- writing */

function request(lane) {
  const chosen = model();
  const body = { model: chosen.id, stream: true, max_tokens: Number(by("tokens").value) };
  body.offramp = asked(lane.decoding, lane.settings);
  for (const name of ["temperature", "seed"]) if (by(name).value !== "") body[name] = Number(by(name).value);
  const prompt = by("prompt").value;
  if (mode() !== "chat") return ["/v1/completions", { ...body, prompt }];
  return ["/v1/chat/completions", { ...body, messages: [{ role: "user", content: prompt }] }];
}

async function writeOne(lane, signal) {
  const [path, body] = request(lane);
  const { messages, prompt } = body;
  lane.asked = { model: body.model, offramp: body.offramp, ...(messages ? { messages } : { prompt }) };
  lane.begin(prompt);
  let reason = null;
  for await (const chunk of stream(path, { body, signal })) {
    for (const choice of chunk.choices ?? []) {
      lane.take(choice.offramp?.tokens ?? []);
      reason = choice.finish_reason ?? reason;
    }
  }
  lane.say(reason === "length" ? "Stopped at the length that was asked for." : "The model ended its text.");
}

async function writeElmer(lane, signal) {
  const text = by("prompt").value;
  lane.asked = { model: model().id, text };
  lane.begin("");
  const body = { ...lane.asked, max_new_tokens: Number(by("tokens").value) };
  const answer = await talk("/v1/generate", { body: { ...body, offramp: { tokens: true } }, signal });
  lane.take(answer.offramp?.tokens?.[0] ?? []);
  lane.say("Written at once: every place left at its own layer.");
}

async function write() {
  if (running || !models.length) return;
  if (!by("prompt").value.trim()) {
    by("note").textContent = "Type a prompt first.";
    by("prompt").focus();
    return;
  }
  by("note").textContent = "";
  panel.empty();
  running = new AbortController();
  const { signal } = running;
  busy(true);
  const todo = shown();
  for (const lane of todo) lane.reset();
  try {
    for (const lane of todo) {
      by("news").textContent = `${lane.title} is writing.`;
      if (!(await attempt(lane, signal))) break;
    }
    if (todo.length > 1) compare();
    by("news").textContent = report(todo);
  } finally {
    running = null;
    busy(false);
  }
}

async function attempt(lane, signal) {
  try {
    await (model().kind === "elmer" ? writeElmer : writeOne)(lane, signal);
    return true;
  } catch (failure) {
    if (failure.name === "AbortError") lane.say("Stopped.");
    else complain(lane, failure);
    return false;
  } finally {
    lane.end();
  }
}

function busy(yes) {
  by("write").ariaDisabled = String(yes);
  if (!yes && document.activeElement === by("stop")) by("write").focus();
  by("stop").hidden = !yes;
  for (const input of [by("model"), by("compare"), ...document.getElementsByName("mode")]) input.disabled = yes;
  for (const lane of lanes) lane.lock(yes);
}

function report(written) {
  const told = ({ title, text, speed }) =>
    `${title}: ${text.tokens.length} tokens${speed ? `, ${speed.toFixed(1)} a second` : ""}.`;
  return written.filter((lane) => lane.text.tokens.length).map(told).join(" ");
}

function compare() {
  const [a, b] = lanes.map((lane) => lane.text.tokens);
  if (!a.length || !b.length) return;
  let same = 0;
  while (same < a.length && same < b.length && a[same].id === b[same].id) same += 1;
  const whole = same === a.length && same === b.length;
  lanes.forEach((lane) => lane.text.differAt(whole ? -1 : same));
  const part = same
    ? `The same as A for ${same} tokens, then another`
    : "Another text than A from the first token";
  const text = whole ? "The same text as A" : part;
  const ratio = lanes[1].speed / lanes[0].speed;
  const pace = Number.isFinite(ratio) ? `; ${ratio.toFixed(2)} times its speed` : "";
  lanes[1].say(`${text}${pace}.`);
}

/* ---------------------------------------------------------------- trouble */

function complain(lane, failure) {
  if (!(failure instanceof Trouble)) {
    lane.trouble("This page failed to show the answer; please reload it.");
    throw failure;
  }
  if (failure.status === 401) askForKey();
  if (!failure.wait) return lane.trouble(failure.message);
  const again = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again" });
  again.addEventListener("click", write);
  lane.trouble(`${failure.message} It asks to wait ${failure.wait} s. `, again);
  count(again, failure.wait);
}

function count(button, seconds) {
  button.disabled = seconds > 0;
  button.textContent = seconds > 0 ? `Try again in ${seconds} s` : "Try again";
  if (seconds > 0 && button.isConnected) setTimeout(() => count(button, seconds - 1), 1000);
}

function askForKey() {
  by("gate").hidden = false;
  by("key").focus();
}

/* ---------------------------------------------------------------- sharing */

async function share() {
  history.replaceState(null, "", toHash(state()));
  try {
    await navigator.clipboard.writeText(location.href);
    by("note").textContent = "Link copied. It holds the prompt and the settings, not the text.";
  } catch {
    // no clipboard for pages that did not come over https or from this machine
    by("link-field").hidden = false;
    by("link").value = location.href;
    by("link").select();
    by("note").textContent = "Copy the link from this field.";
  }
}

/* ---------------------------------------------------------------- start */

async function start() {
  try {
    const { data } = await talk("/v1/models");
    models = data.map(({ id, offramp }) => ({ id, ...offramp, exits: whole(offramp) }));
  } catch (failure) {
    if (failure.status === 401) askForKey();
    const again = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again" });
    again.addEventListener("click", start);
    by("problem").replaceChildren(failure.message, " ", again);
    return;
  }
  by("problem").replaceChildren();
  by("gate").hidden = true;
  by("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
  fit();
  const linked = fromHash(location.hash);
  lanes[1].choose("contrast");
  restore(linked);
  if (linked.prompt !== undefined) by("note").textContent = "This came with the link; Write starts it.";
  else if (!by("prompt").value) {
    by("prompt").value = sample();
    if (document.activeElement === by("prompt")) by("prompt").select(); // who is about to type replaces it
  }
  by("write").disabled = false; // until here a click would have been lost
}

const whole = ({ exits, depth }) => [...new Set([...exits, depth])].sort((a, b) => a - b);
const sample = () => SAMPLES[model().kind === "elmer" ? "elmer" : mode()];

by("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
by("ask").addEventListener("input", remember);
by("ask").addEventListener("change", ({ target }) => {
  const untouched = Object.values(SAMPLES).includes(by("prompt").value);
  if (target.id === "compare" || target.id === "model" || target.name === "mode") fit();
  if (untouched) by("prompt").value = sample();
  remember();
});
by("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    by("ask").requestSubmit();
  }
});
by("stop").addEventListener("click", () => running?.abort());
by("share").addEventListener("click", share);
by("gate").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(by("key").value);
  by("key").value = "";
  by("gate").hidden = true;
  for (const lane of lanes) if (lane.model) lane.trouble("");
  by(models.length ? "write" : "prompt").focus();
  if (models.length) write();
  else start();
});
addEventListener("hashchange", () => models.length && !running && restore(fromHash(location.hash)));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  hideTip();
  if (running) running.abort();
  else panel.close();
});
start();
