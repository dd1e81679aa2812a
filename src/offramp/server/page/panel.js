/* The panel that shows the layers of one token, and which token that is.
   In:  a lane and the number of a token. Out: a question to /v1/trace, its answer as a table.
   Law: an answer that comes after another token was chosen is not shown; closing gives the focus
   back to the token. */

import { showLayers } from "./layers.js";
import { talk } from "./talk.js";
import { hideTip, readable } from "./tokens.js";

const by = (id) => document.getElementById(id);

export class Panel {
  constructor() {
    this.shown = null; // {lane, index}
    this.invitation = by("layers-body").firstElementChild;
    by("layers-close").addEventListener("click", () => this.close());
  }

  /** Show what every exit says where a lane has its token number ``index``. */
  async open(lane, index) {
    hideTip();
    const mine = { lane, index };
    this.shown?.lane.text.mark(-1);
    this.shown = mine;
    lane.text.mark(index);
    const token = lane.text.tokens[index];
    by("layers-title").textContent = `Layers at ${readable(token.text)}`;
    by("layers-close").hidden = false;
    by("layers").classList.add("open");
    by("layers").ariaBusy = "true";
    by("layers-title").focus({ preventScroll: true });
    let said;
    try {
      const answer = await talk("/v1/trace", { body: question(lane, index) });
      said = () => showLayers(by("layers-body"), answer, { token, position: placeOf(answer, index) });
    } catch (failure) {
      said = () => by("layers-body").replaceChildren(failure.message);
    }
    if (this.shown !== mine) return;
    by("layers").ariaBusy = "false";
    said();
    by("layers").scrollIntoView({ block: "nearest" });
  }

  /** Close it and go back to the token. */
  close() {
    const before = this.shown;
    this.empty();
    before?.lane.text.focus(before.index);
  }

  /** Show nothing. */
  empty() {
    this.shown?.lane.text.mark(-1);
    this.shown = null;
    by("layers-title").textContent = "Layers";
    by("layers-close").hidden = true;
    by("layers").classList.remove("open");
    by("layers-body").replaceChildren(this.invitation);
  }
}

/* What stood before the token, in ids, so that nothing is cut into tokens anew. */
function question(lane, index) {
  const { offramp, ...asked } = lane.asked;
  if (asked.text !== undefined) return { ...asked, top: 5 };
  const written = lane.text.tokens.slice(0, index).map(({ id }) => id);
  const rule = ["contrast", "dola"].includes(offramp.decoding) ? offramp : { decoding: "plain" };
  return { ...asked, written, window: [-1, null], top: 5, offramp: rule };
}

/* Of a text one place was asked for. Of a canvas all: a text takes its tokens from some of them. */
function placeOf({ kind, positions }, index) {
  if (kind !== "canvas") return positions.at(-1);
  return positions.filter(({ target }) => target)[index] ?? positions.at(-1);
}
