/* Show a text token by token: colour and underline say how deep each one went.
   In:  tokens {id, text, exit, confidence}. Out: elements; "choose" when a reader opens one.
   Law: the text of a token is set as text, never as HTML; what a colour says is also said by the
   underline's length, by the accessible name and by the tip. */

const tip = document.getElementById("tip");
const LABELS = [[" ", "space"], ["\n", "line break"], ["\t", "tab"], ["", "nothing to see"]];

/** A token for a reader's eye: spaces that would be lost become a name. */
export function readable(text) {
  const special = LABELS.find(([written]) => written === text);
  if (special) return special[1];
  return /\S/.test(text) ? `“${text.trim().replaceAll("\n", "↵")}”` : `${text.length} spaces or line breaks`;
}

/** Colour an element by an exit: CSS makes the colour from this one number. */
export function paint(element, exit, depth) {
  element.style.setProperty("--depth", (exit / depth).toFixed(3));
  return element;
}

const share = (confidence) => `${Math.floor(confidence * 100)} % sure`;

/* What a token is called and where it left: for the tip, and as its accessible name. */
function described(token, depth) {
  const where = token.exit === depth ? `whole model, ${depth} layers` : `exit ${token.exit} of ${depth}`;
  const asked = token.exit < depth && token.confidence !== null && token.confidence < 1;
  const sure = asked ? [share(token.confidence)] : [];
  return [readable(token.text), where, ...sure];
}

/** A text that grows: one element per token, one of them in the tab order. */
export class TokenText {
  /** @param {HTMLElement} home @param {(index: number) => void} choose */
  constructor(home, choose) {
    this.home = home;
    this.tokens = [];
    this.spans = [];
    this.focusable = 0;
    home.addEventListener("click", (event) => this.#at(event, (i) => choose(i)));
    home.addEventListener("keydown", (event) => this.#key(event, choose));
    home.addEventListener("pointerover", (event) => this.#at(event, (i) => this.#tip(i)));
    home.addEventListener("focusin", (event) => this.#at(event, (i) => this.#tip(i)));
    home.addEventListener("pointerleave", hideTip);
    home.addEventListener("focusout", hideTip);
  }

  /** Begin anew, with the prompt in front of what will be written. */
  clear(depth, prompt = "") {
    this.depth = depth;
    this.tokens = [];
    this.spans = [];
    this.focusable = 0;
    this.home.replaceChildren();
    if (!prompt) return;
    const before = document.createElement("span");
    before.className = "before";
    before.textContent = prompt;
    this.home.append(before);
  }

  /** Add tokens at the end. */
  add(tokens) {
    for (const token of tokens) {
      const span = paint(document.createElement("span"), token.exit, this.depth);
      span.className = "token";
      span.role = "button";
      span.tabIndex = this.spans.length === this.focusable ? 0 : -1;
      span.dataset.index = this.spans.length;
      span.dataset.exit = token.exit;
      span.ariaLabel = described(token, this.depth).join(", ");
      const blank = !token.text.trim();
      if (blank) span.classList.add(token.text.includes("\n") ? "break" : "blank");
      const [gap] = blank ? [""] : /^ */.exec(token.text); // the colour begins where the word does
      span.textContent = token.text.slice(gap.length);
      this.tokens.push(token);
      this.spans.push(span);
      this.home.append(gap, span);
    }
  }

  /** The text so far. */
  get text() {
    return this.tokens.map((token) => token.text).join("");
  }

  /** Mark the token whose layers are shown; -1 for none. */
  mark(index) {
    for (const span of this.home.querySelectorAll("[aria-current]")) span.ariaCurrent = null;
    if (this.spans[index]) this.spans[index].ariaCurrent = "true";
  }

  /** Mark where this text begins to differ from another; -1 for nowhere. */
  differAt(index) {
    for (const span of this.home.querySelectorAll(".differs")) span.classList.remove("differs");
    this.spans[index]?.classList.add("differs");
  }

  /** Put the focus on a token. */
  focus(index) {
    const next = this.spans[Math.max(0, Math.min(index, this.spans.length - 1))];
    if (!next) return;
    this.spans[this.focusable].tabIndex = -1;
    this.focusable = Number(next.dataset.index);
    next.tabIndex = 0;
    next.focus();
  }

  #at(event, act) {
    const span = event.target.closest?.(".token");
    if (span) act(Number(span.dataset.index));
  }

  #key(event, choose) {
    const index = Number(event.target.dataset?.index);
    if (Number.isNaN(index) || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.spans.length - 1;
    const moves = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: last };
    if (event.key in moves) this.focus(moves[event.key]);
    else if (event.key === "ArrowDown") this.focus(this.#line(index, true));
    else if (event.key === "ArrowUp") this.focus(this.#line(index, false));
    else if (event.key === "Enter" || event.key === " ") choose(index);
    else return;
    event.preventDefault();
  }

  /* The token nearest below or above: texts wrap, so ask where they are. */
  #line(index, down) {
    const here = this.spans[index].getClientRects()[0];
    const order = down ? this.spans.slice(index + 1) : this.spans.slice(0, index).reverse();
    let best = index;
    let row = null;
    for (const span of order) {
      const box = span.getClientRects()[0];
      if (!box || (down ? box.top < here.bottom - 4 : box.bottom > here.top + 4)) continue;
      row ??= box.top;
      if (Math.abs(box.top - row) > 4) break;
      const distance = (other) => Math.abs(other.left - here.left);
      if (best === index || distance(box) < distance(this.spans[best].getClientRects()[0])) {
        best = Number(span.dataset.index);
      }
    }
    return best;
  }

  #tip(index) {
    const [name, ...facts] = described(this.tokens[index], this.depth);
    const strong = document.createElement("strong");
    strong.textContent = name;
    tip.replaceChildren(strong, ` ${facts.join(", ")}`);
    tip.hidden = false;
    const box = this.spans[index].getClientRects()[0];
    if (!box) return;
    const left = Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8));
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  }
}

/** Take the tip away. */
export function hideTip() {
  tip.hidden = true;
}

/** Show the model's exits as a legend, each with a bar of how many tokens left there. */
export function drawExits(list, exits, depth, tokens) {
  const counts = new Map(exits.map((exit) => [exit, 0]));
  for (const { exit } of tokens) counts.set(exit, (counts.get(exit) ?? 0) + 1);
  const most = Math.max(1, ...counts.values());
  const sorted = [...counts].sort(([a], [b]) => a - b);
  const labelEach = Math.ceil(sorted.length / 18);
  list.replaceChildren(
    ...sorted.map(([exit, count], i) => {
      const item = paint(document.createElement("li"), exit, depth);
      item.style.setProperty("--share", count / most);
      item.title = `exit ${exit}${exit === depth ? " (whole model)" : ""}: ${count} tokens`;
      const said = document.createElement("span");
      said.className = "unseen";
      said.textContent = item.title;
      const [bar, name] = ["bar-of", "exit-name"].map((kind) => {
        const part = document.createElement("span");
        part.className = kind;
        part.ariaHidden = "true";
        return part;
      });
      name.textContent = (sorted.length - 1 - i) % labelEach ? "" : exit;
      if (count) bar.dataset.count = count;
      item.append(bar, name, said);
      return item;
    }),
  );
}
