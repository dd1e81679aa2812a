/* The ways to write: their names, what they do in a sentence, and the few settings of each.
   In:  a model as /v1/models describes it. Out: what a reader can choose, and the request's field.
   Law: only what the model offers is shown; a setting outside its choices falls back to its default. */

const exitsBelow = (model) => model.exits.filter((exit) => exit < model.depth);
const nearest = (numbers, share, depth) =>
  [...numbers].sort((a, b) => Math.abs(a - share * depth) - Math.abs(b - share * depth))[0];

const exitChoice = (name, label, preset, { none } = {}) => ({
  name,
  label,
  choices: (model) => [
    ...(none ? [["", none]] : []),
    ...exitsBelow(model).map((exit) => [String(exit), `exit ${exit}`]),
  ],
  preset: (model) => String(preset(model) ?? ""),
});

const number = (name, label, preset, { min = 0, max = 1, step = 0.05, placeholder = "" } = {}) => ({
  name, label, min, max, step, placeholder, preset: () => preset,
});

const lowerPreset = (model) =>
  model.default_contrast?.lower ?? nearest(exitsBelow(model), 0.4, model.depth);

/** Every decoding that this page knows, in the order of the page. */
export const WAYS = {
  plain: {
    label: "Plain",
    about: () => "The whole model writes every token.",
    settings: [],
  },
  contrast: {
    label: "ACD",
    about: (chosen) =>
      `Auto-contrastive: what the whole model knows and exit ${chosen.lower} does not yet.`,
    settings: [
      exitChoice("lower", "Against", lowerPreset),
      number("alpha", "Alpha", "0.1", { min: 0.01, step: 0.01 }),
    ],
  },
  dola: {
    label: "DoLa",
    about: () => "Contrasts with the exit that differs most from the whole model, token by token.",
    settings: [],
  },
  exit: {
    label: "Exit",
    about: (chosen, model) =>
      `Every token leaves at exit ${chosen.exit} of ${model.depth}; the blocks above do not run.`,
    settings: [exitChoice("exit", "Leave at", (model) => nearest(exitsBelow(model), 0.9, model.depth))],
  },
  early_exit: {
    label: "Early exit",
    about: () => "Each token leaves at the first exit that is sure enough of it.",
    settings: [number("threshold", "Sure from", "", { step: 0.01, placeholder: "auto" })],
  },
  speculation: {
    label: "Speculation",
    about: () => "An early exit drafts, the whole model checks: the same text as plain, sooner.",
    settings: [exitChoice("draft_exit", "Drafts", () => "", { none: "best known" })],
  },
};

/** The decodings that a model offers, as [name, way]. */
export function waysOf(model) {
  if (model.kind === "elmer") return [["plain", WAYS.plain]];
  const hasExit = exitsBelow(model).length > 0;
  return Object.entries(WAYS).filter(
    ([name, way]) =>
      model.decodings.includes(name) && (hasExit || !way.settings.some((setting) => setting.choices)),
  );
}

/** Every setting of one decoding with an allowed value: the wish where it fits, else the preset. */
export function settle(name, wishes, model) {
  const chosen = {};
  for (const setting of WAYS[name].settings) {
    const wish = wishes[setting.name];
    chosen[setting.name] = fits(setting, wish, model) ? String(wish) : setting.preset(model);
  }
  return chosen;
}

function fits(setting, wish, model) {
  if (wish === undefined || wish === "") return false;
  if (setting.choices) return setting.choices(model).some(([value]) => value === String(wish));
  const value = Number(wish);
  return Number.isFinite(value) && value >= setting.min && value <= setting.max;
}

/** The "offramp" field of a request; what is left blank is the server's to choose. */
export function asked(name, chosen) {
  const said = Object.entries(chosen).filter(([, value]) => value !== "");
  const numbers = said.map(([field, value]) => [field, Number(value)]);
  return { decoding: name, tokens: true, ...Object.fromEntries(numbers) };
}
