"use strict";
// Shows what an exit said at a position when its cell is pointed at, clicked or reached by keys.
// Everything is written by textContent: what tokens hold is never read as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const grid = document.getElementById("grid");
  const details = document.getElementById("details");
  const cells = new Map();
  for (const cell of grid.querySelectorAll("td[data-row]")) {
    cells.set(`${cell.dataset.row},${cell.dataset.column}`, cell);
    cell.removeAttribute("title");
  }
  const rows = data.exits.length + (data.rule === null ? 0 : 1);
  const columns = data.positions.length;
  let here = null;
  let pinned = null;

  const make = (name, words, kind) => {
    const node = document.createElement(name);
    if (words !== undefined) node.textContent = words;
    if (kind) node.className = kind;
    return node;
  };
  const share = (value) => (value >= 0.0995 ? `${(100 * value).toFixed(0)} %`
    : value >= 0.001 ? `${(100 * value).toFixed(1)} %` : value > 0 ? "< 0.1 %" : "0 %");
  const nats = (value) => (value === null ? "infinite" : `${value.toFixed(2)} nats`);
  const word = (number) => data.words[number];

  const meters = (entries) => {
    const table = make("table");
    for (const [words, ...values] of entries) {
      const row = make("tr");
      row.append(make("td", words, "word"));
      for (const value of values) row.append(make("td", share(value), "number"));
      const meter = make("td", undefined, "meter");
      const bar = make("i");
      bar.style.setProperty("--v", values[values.length - 1]);
      meter.append(bar);
      row.append(meter);
      table.append(row);
    }
    return table;
  };
  const facts = (pairs) => {
    const list = make("dl");
    for (const [name, value] of pairs) list.append(make("dt", name), make("dd", value));
    return list;
  };

  const saidParts = (position, exit) => {
    const [top, entropy, apart, agrees, target, gate] = position.said[exit];
    const parts = [meters(top.map(([number, value]) => [word(number), value]))];
    const pairs = [["entropy", nats(entropy)], ["KL from the last layer", nats(apart)],
      ["agrees with it", agrees ? "yes" : "no"]];
    if (target !== null) {
      pairs.push([`${data.targetName} "${word(position.target)}"`, share(target)]);
    }
    if (gate !== null) {
      pairs.push(["gate", `${share(gate[0])} sure, ${gate[2] ? "leaves" : "stays"} (limit ${share(gate[1])})`]);
    }
    parts.push(make("h3", "Measured"), facts(pairs));
    return parts;
  };
  const ruleParts = (position) => {
    const rule = position.rule;
    const pairs = [["best before", `${word(rule.before[0])} ${share(rule.before[1])}`],
      ["best after", `${word(rule.after[0])} ${share(rule.after[1])}`],
      ["changed", rule.changed ? "yes" : "no"], ["KL of after from before", nats(rule.apart)]];
    if (rule.target !== null) {
      pairs.push([`${data.targetName} "${word(position.target)}"`, share(rule.target)]);
    }
    const parts = [facts(pairs)];
    if (rule.plausible !== null) {
      const more = rule.count - rule.plausible.length;
      parts.push(make("h3", `May be chosen: ${rule.count} (before, after)`));
      parts.push(meters(rule.plausible.map(([number, old, now]) => [word(number), old, now])));
      if (more > 0) parts.push(make("p", `and ${more} more`, "hint"));
    }
    return parts;
  };

  const show = (row, column) => {
    const cell = cells.get(`${row},${column}`);
    if (!cell || cell === here) return;
    if (here) here.classList.remove("here");
    here = cell;
    cell.classList.add("here");
    const position = data.positions[column];
    const rule = row >= data.exits.length;
    const title = make("h2", rule ? data.rule : row === data.exits.length - 1 ? "The last layer" : `Exit ${data.exits[row]}`);
    const at = make("p", `${data.placeName} ${position.index}, at "${word(position.token)}"`, "hint word");
    const parts = rule ? ruleParts(position) : saidParts(position, row);
    if (!rule && position.left !== null && row === position.left) {
      parts.push(make("p", data.leftWords, "hint"));
    }
    details.replaceChildren(title, at, ...parts);
  };
  const go = (row, column) => {
    const cell = cells.get(`${row},${column}`);
    if (!cell) return;
    for (const each of grid.querySelectorAll('td[tabindex="0"]')) each.tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
    cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  };

  const placeOf = (event) => {
    const cell = event.target.closest("td[data-row]");
    return cell ? [Number(cell.dataset.row), Number(cell.dataset.column)] : null;
  };
  grid.addEventListener("mouseover", (event) => {
    const place = placeOf(event);
    if (place) show(...place);
  });
  grid.addEventListener("mouseleave", () => { if (pinned) show(...pinned); });
  grid.addEventListener("focusin", (event) => {
    const place = placeOf(event);
    if (place) { pinned = place; show(...place); }
  });
  grid.addEventListener("click", (event) => {
    const place = placeOf(event);
    if (place) go(...place);
  });
  grid.addEventListener("keydown", (event) => {
    const place = placeOf(event);
    if (!place || event.altKey || event.metaKey) return;
    const [row, column] = place;
    const moves = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      Home: [event.ctrlKey ? 0 : row, 0], End: [event.ctrlKey ? rows - 1 : row, columns - 1],
      PageUp: [0, column], PageDown: [rows - 1, column],
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    go(...moves[event.key]);
  });

  const value = (said, measure) => (measure === "probability" ? said[0][0][1]
    : measure === "entropy" ? said[1] : measure === "divergence" ? (said[2] ?? Infinity) : Number(said[3]));
  const colour = (measure) => {
    const straight = measure === "probability" || measure === "agreement";
    const most = data.most[measure];
    for (const [key, cell] of cells) {
      const [row, column] = key.split(",").map(Number);
      if (row >= data.exits.length) continue;
      const found = Math.min(value(data.positions[column].said[row], measure) / most, 1);
      cell.style.setProperty("--v", (straight ? found : 1 - found).toFixed(3));
    }
    const ends = straight ? ["0", "1"] : [`${most.toFixed(1)} nats`, "0"];
    document.getElementById("low").textContent = ends[0];
    document.getElementById("high").textContent = ends[1];
    document.getElementById("meaning").textContent = data.meanings[measure];
  };
  for (const choice of document.querySelectorAll('input[name="measure"]')) {
    choice.addEventListener("change", () => colour(choice.value));
    if (choice.checked) colour(choice.value);
  }

  document.getElementById("measures").hidden = false;
  const first = grid.querySelector('td[tabindex="0"]');
  if (first) {
    pinned = [Number(first.dataset.row), Number(first.dataset.column)];
    show(...pinned);
  }
})();
