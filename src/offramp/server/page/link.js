/* The page's state as the part of the address after #, and back.
   In:  plain values. Out: a query string with short names; a: and b: are the two lanes.
   Law: reading what was written gives the same state; unknown or broken parts are left out;
   an API key is never part of it. */

const PLAIN = ["prompt", "mode", "model", "tokens", "temperature", "seed"];
const LANES = ["a", "b"];

/** Write the state: {prompt, mode, …, lanes: [{decoding, settings}, …]}. */
export function toHash(state) {
  const query = new URLSearchParams();
  for (const name of PLAIN) {
    if (state[name] !== undefined && state[name] !== "") query.set(name, state[name]);
  }
  state.lanes.forEach(({ decoding, settings }, i) => {
    query.set(LANES[i], decoding);
    for (const [name, value] of Object.entries(settings)) query.set(`${LANES[i]}.${name}`, value);
  });
  return `#${query}`;
}

/** Read the state; what the link does not say is missing. */
export function fromHash(hash) {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const state = { lanes: [] };
  for (const name of PLAIN) {
    if (query.has(name)) state[name] = query.get(name);
  }
  for (const lane of LANES) {
    if (!query.has(lane)) continue;
    const own = [...query].filter(([name]) => name.startsWith(`${lane}.`));
    const settings = Object.fromEntries(own.map(([name, value]) => [name.slice(2), value]));
    state.lanes.push({ decoding: query.get(lane), settings });
  }
  return state;
}
