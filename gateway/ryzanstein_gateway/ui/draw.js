// Elements and small drawings. All text goes in by textContent: whatever a name or a message holds stays text.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 160;
const HEIGHT = 36;
const FEWEST = 15; // values across the whole width

/** An element with attributes and children; strings become text. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Change a node's text only where it differs, so that nothing that is selected or read aloud is disturbed. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Change an attribute only where it differs. */
export function mark(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** A number as people read it; a dash where there is none. */
export function number(value, digits = 0) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** Milliseconds as people read them. */
export function duration(milliseconds) {
  if (typeof milliseconds !== "number" || !Number.isFinite(milliseconds)) return "–";
  if (milliseconds < 1000) return `${number(milliseconds)} ms`;
  return `${number(milliseconds / 1000, milliseconds < 10000 ? 2 : 1)} s`;
}

/** How long ago a time (RFC 3339) was. */
export function ago(time, now) {
  const seconds = Math.max(0, Math.round(now - Date.parse(time) / 1000));
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

/** A small line of the last values, named for those who cannot see it. */
export class Sparkline {
  constructor(what) {
    this.what = what;
    this.line = document.createElementNS(SVG, "polyline");
    this.area = document.createElementNS(SVG, "polygon");
    this.dot = document.createElementNS(SVG, "circle");
    this.node = document.createElementNS(SVG, "svg");
    for (const [name, value] of [["viewBox", `0 0 ${WIDTH} ${HEIGHT}`], ["class", "spark"], ["role", "img"],
      ["preserveAspectRatio", "none"]]) this.node.setAttribute(name, value);
    this.line.setAttribute("vector-effect", "non-scaling-stroke");
    this.node.append(this.area, this.line, this.dot);
  }

  /** Draw values (null: there was none), the newest at the right end. */
  draw(values, format) {
    const most = Math.max(values.length, FEWEST);
    const known = values.filter((value) => value !== null);
    const top = Math.max(...known, 0) || 1;
    const x = (index) => ((index + most - values.length) / (most - 1)) * (WIDTH - 6) + 3;
    const y = (value) => HEIGHT - 4 - (value / top) * (HEIGHT - 9);
    const points = [];
    values.forEach((value, index) => { if (value !== null) points.push([x(index), y(value)]); });
    const text = points.map(([left, down]) => `${left.toFixed(1)},${down.toFixed(1)}`);
    this.line.setAttribute("points", text.join(" "));
    const last = points.at(-1);
    this.area.setAttribute("points", last ? `${points[0][0]},${HEIGHT} ${text.join(" ")} ${last[0]},${HEIGHT}` : "");
    this.dot.setAttribute("r", last ? "2.5" : "0");
    if (last) for (const [name, value] of [["cx", last[0]], ["cy", last[1]]]) this.dot.setAttribute(name, value);
    const label = known.length ? `now ${format(known.at(-1))}, at most ${format(Math.max(...known))}` : "nothing yet";
    this.node.setAttribute("aria-label", `${this.what} of the last minutes: ${label}`);
  }
}

/** A table; `rows` of cells, each a string or a node. */
export function table(caption, heads, rows) {
  const body = rows.map((row) => {
    const [first, ...others] = row;
    return el("tr", {}, el("th", { scope: "row" }, first), ...others.map((cell) => el("td", {}, cell)));
  });
  const head = el("tr", {}, ...heads.map((name) => el("th", { scope: "col" }, name)));
  const made = el("table", {}, el("caption", {}, caption), el("thead", {}, head), el("tbody", {}, ...body));
  return el("div", { class: heads.includes("Message") ? "scroll wordy" : "scroll", tabindex: "0", role: "region", "aria-label": caption }, made);
}
