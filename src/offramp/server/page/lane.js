/* One lane of the page: a decoding with its settings, the text it writes, and its speed.
   In:  a model, and tokens as they come. Out: what is chosen; elements.
   Law: numbers are of what this page received, by its own clock. */

import { WAYS, settle, waysOf } from "./decodings.js";
import { TokenText, drawExits } from "./tokens.js";

const template = document.getElementById("lane");

/** One of the two lanes. */
export class Lane {
  /** @param {string} letter @param {{changed: () => void, choose: (lane: Lane, index: number) => void}} hooks */
  constructor(letter, { changed, choose }) {
    this.letter = letter;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.changed = changed;
    this.wishes = {};
    this.find = (selector) => this.element.querySelector(selector);
    this.text = new TokenText(this.find(".text"), (index) => choose(this, index));
    this.find("h2").textContent = letter;
    this.element.ariaLabel = `Text ${letter}`;
    this.find(".text").ariaLabel = `Text ${letter} by tokens; arrow keys move, Enter shows the layers`;
    this.find(".ways").addEventListener("change", (event) => this.choose(event.target.value));
  }

  /** Offer what this model can do, keeping what is chosen where it still can be. */
  offer(model) {
    this.model = model;
    const ways = waysOf(model);
    this.find(".ways").hidden = ways.length < 2;
    this.find(".ways").replaceChildren(
      this.find(".ways legend"),
      ...ways.map(([name, way]) => {
        const label = document.createElement("label");
        const radio = Object.assign(document.createElement("input"), {
          type: "radio", name: `way-${this.letter}`, value: name,
        });
        const face = document.createElement("span");
        face.textContent = way.label;
        label.append(radio, face);
        return label;
      }),
    );
    const names = ways.map(([name]) => name);
    this.choose(names.includes(this.decoding) ? this.decoding : names[0]);
    this.reset();
  }

  /** Choose a decoding, with wishes for its settings. */
  choose(name, wishes = {}) {
    if (!waysOf(this.model).some(([known]) => known === name)) return;
    this.decoding = name;
    Object.assign(this.wishes, wishes);
    this.settings = settle(name, this.wishes, this.model);
    this.find(`.ways [value="${name}"]`).checked = true;
    this.find(".settings").replaceChildren(...WAYS[name].settings.map((setting) => this.#field(setting)));
    this.#explain();
    this.changed();
  }

  #field(setting) {
    const label = document.createElement("label");
    label.className = "field";
    const input = document.createElement(setting.choices ? "select" : "input");
    if (setting.choices) {
      for (const [value, name] of setting.choices(this.model)) input.add(new Option(name, value));
    } else {
      const { min, max, step } = setting;
      Object.assign(input, { type: "number", min, max, step });
      if (setting.placeholder) input.placeholder = setting.placeholder;
    }
    input.name = setting.name;
    input.value = this.settings[setting.name];
    input.addEventListener("change", () => {
      this.wishes[setting.name] = input.value;
      this.settings = settle(this.decoding, this.wishes, this.model);
      input.value = this.settings[setting.name];
      this.#explain();
      this.changed();
    });
    label.append(`${setting.label} `, input);
    return label;
  }

  #explain() {
    const about = this.model.kind === "elmer" ? "" : WAYS[this.decoding].about(this.settings, this.model);
    this.find(".about-way").textContent = about;
  }

  /** Forget what was written. */
  reset(prompt = "") {
    this.text.clear(this.model.depth, prompt);
    this.times = [];
    this.speed = null;
    this.say("");
    this.trouble("");
    this.find(".plain-text").textContent = "";
    this.#count();
    this.#number("speed", "–");
    this.#number("first", "–");
  }

  /** Start the clock. */
  begin(prompt) {
    this.reset(prompt);
    this.element.classList.add("writing");
    this.begun = performance.now();
  }

  /** Take tokens that have just come. */
  take(tokens) {
    if (!tokens.length) return;
    this.text.add(tokens);
    this.times.push([performance.now(), this.text.tokens.length]);
    this.frame ??= requestAnimationFrame(() => this.#draw());
  }

  /** Stop the clock. */
  end() {
    this.element.classList.remove("writing");
    this.find(".plain-text").textContent = this.text.text;
    this.#draw();
  }

  /* The numbers, once a frame however fast tokens come. */
  #draw() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    this.#count();
    if (this.times.length) this.#pace();
  }

  /* Tokens after the first chunk, over the time since: waiting for the first is its own number.
     Of what came all at once, everything over the whole time. */
  #pace() {
    const [[first, early], [last, all]] = [this.times[0], this.times.at(-1)];
    this.#number("first", `${((first - this.begun) / 1000).toFixed(2)} s`);
    const [count, time] = last > first ? [all - early, last - first] : [all, first - this.begun];
    this.speed = (count * 1000) / time;
    this.#number("speed", this.speed.toFixed(1));
  }

  #count() {
    const { tokens } = this.text;
    drawExits(this.find(".exits"), this.model.exits, this.model.depth, tokens);
    const mean = tokens.reduce((sum, { exit }) => sum + exit, 0) / tokens.length;
    this.#number("tokens", tokens.length || "–");
    this.#number("exit", tokens.length ? `${mean.toFixed(1)} of ${this.model.depth}` : "–");
  }

  #number(name, value) {
    this.find(`[data-number="${name}"]`).textContent = value;
  }

  /** Say something about the text: how it ended, how it compares. */
  say(words) {
    this.find(".note").textContent = words;
  }

  /** Say what went wrong, in words, perhaps with something to do about it. */
  trouble(words, ...actions) {
    this.find(".trouble").replaceChildren(words, ...actions);
  }

  /** Let nobody change what is chosen while it is being written. */
  lock(yes) {
    for (const input of this.element.querySelectorAll("input, select")) input.disabled = yes;
  }

  /** The name of what is chosen, for sentences. */
  get title() {
    return WAYS[this.decoding].label;
  }
}
