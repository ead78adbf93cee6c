// Asks the gateway every two seconds for what it sees and draws it. Read only; keeps the key in this tab alone.

import { Sparkline, ago, duration, el, mark, number, say, table } from "./draw.js";

const PAUSE = 2000;
const PATIENCE = 8000;
const KEPT = 90; // three minutes
const KEY = "ryzanstein-key";
const at = (id) => document.getElementById(id);
const cards = new Map();
let timer = 0;
let running = false;
let heard = 0; // by this machine's clock: the gateway's may be another's

// --- what a service's state is called ---------------------------------------------------------------------------

const list = (value) => (Array.isArray(value) ? value : []);
const condition = (told, type) => list(told?.conditions).find((one) => one.type === type);

/** One of good, busy, warn, bad, calm, and the words for it. */
function standing(row) {
  const { seen, told } = row;
  if (seen && seen.sound === 0 && seen.waiting > 0) return ["busy", "Waking"];
  if (told && told.desired === 0 && told.replicas === 0) return ["calm", "At zero"];
  const serving = condition(told, "Serving");
  if (seen ? seen.sound === 0 : serving?.status !== "True") {
    return serving?.reason ? ["bad", `Not serving: ${serving.reason}`] : ["bad", "Not serving"];
  }
  const degraded = condition(told, "Degraded");
  if (degraded?.status === "True") return ["warn", `Degraded: ${degraded.reason}`];
  if (seen && seen.sound < seen.listed) return ["warn", "Degraded"];
  if (told && told.ready < told.desired) return ["busy", "Progressing"];
  return ["good", "Serving"];
}

/** The sentence that explains it best; empty where all is well. */
function sentence(row, tone) {
  if (tone === "good" || !row.told) return "";
  const wanted = { bad: ["Serving", "Ready"], warn: ["Degraded"], busy: ["Progressing", "CapacityAvailable"], calm: [] };
  for (const type of wanted[tone]) {
    const message = condition(row.told, type)?.message;
    if (message) return message;
  }
  return "";
}

// --- one service's card -------------------------------------------------------------------------------------------

class Card {
  constructor(row) {
    this.history = { pod: "", flight: [], first: [] };
    this.drawn = "";
    this.badge = el("span", { class: "badge" });
    this.words = el("p", { class: "words" });
    this.models = el("p", { class: "models" });
    this.figures = {};
    this.sparks = { flight: new Sparkline("In flight"), first: new Sparkline("Median time to the first byte") };
    const figures = el("dl", { class: "figures" },
      this.figure("replicas", "Replicas ready"), this.figure("flight", "In flight", this.sparks.flight.node),
      this.figure("waiting", "Waiting"), this.figure("rate", "Requests / s"),
      this.figure("p50", "First byte, median", this.sparks.first.node), this.figure("p95", "First byte, p95"));
    this.detail = el("div", { class: "detail" });
    const name = el("h2", {}, el("span", { class: "namespace" }, `${row.namespace} / `), row.name);
    const more = el("details", {}, el("summary", {}, "Replicas, conditions, events"), this.detail);
    this.more = more;
    more.addEventListener("toggle", () => this.fill());
    this.node = el("article", { class: "card" }, el("div", { class: "top" }, name, this.badge), this.models, this.words,
      figures, more);
  }

  figure(name, label, ...extra) {
    this.figures[name] = el("span", { class: "value" }, "–");
    return el("div", { class: `figure ${name}` }, el("dt", {}, label), el("dd", {}, this.figures[name], ...extra));
  }

  /** Take a new row; `page` is the whole answer. */
  take(row, page) {
    this.row = row;
    this.now = page.time;
    const [tone, words] = standing(row);
    mark(this.node, "data-tone", tone);
    say(this.badge, words);
    say(this.words, sentence(row, tone));
    const parts = [list(row.models).length ? `model ${row.models.join(", ")}` : "no route", row.told?.uri, row.seen?.policy];
    say(this.models, parts.filter(Boolean).join("  ·  "));
    this.text = `${row.namespace} ${row.name} ${list(row.models).join(" ")} ${words}`.toLowerCase();
    this.show(row, page.gateway.pod);
    this.fill();
  }

  show({ seen, told }, pod) {
    const ready = told ? told.ready : seen?.sound;
    const wanted = told ? told.desired : seen?.listed;
    say(this.figures.replicas, `${number(ready)} of ${number(wanted)}`);
    say(this.figures.flight, number(seen?.in_flight));
    say(this.figures.waiting, number(seen?.waiting));
    say(this.figures.rate, number(seen?.requests_per_second, 2));
    say(this.figures.p50, duration(seen?.first_byte_p50_ms));
    say(this.figures.p95, duration(seen?.first_byte_p95_ms));
    const history = this.history;
    if (history.pod !== pod) Object.assign(history, { pod, flight: [], first: [] }); // another pod's load is no sequel
    for (const [series, value] of [[history.flight, seen?.in_flight], [history.first, seen?.first_byte_p50_ms]]) {
      series.push(value ?? null);
      if (series.length > KEPT) series.shift();
    }
    this.sparks.flight.draw(history.flight, (value) => number(value));
    this.sparks.first.draw(history.first, duration);
  }

  /** The part that is open: drawn anew only where it says something else. */
  fill() {
    if (!this.more.open || !this.row) return;
    const { seen, told } = this.row;
    const minute = Math.floor(this.now / 10); // so that ages move, but no open selection is lost each second
    const says = JSON.stringify([seen?.replicas, told, minute]);
    if (says === this.drawn) return;
    this.drawn = says;
    this.detail.replaceChildren(...[scaling(told, this.now), replicas(seen, told), conditions(told, this.now),
      events(told, this.now)].filter(Boolean));
  }
}

function scaling(told, now) {
  const one = told?.autoscaling;
  if (!one) return null;
  const bounds = `${number(one.min_replicas)} to ${number(one.max_replicas)} replicas`;
  const value = one.metric ? `${one.metric} is ${one.value || "not known"}, target ${one.target}` : "not decided yet";
  const last = one.last_scale_time ? `Last scaled ${ago(one.last_scale_time, now)}` : "";
  const text = [bounds, value, one.message, last].filter(Boolean).join(". ");
  return el("p", { class: "scaling" }, el("strong", {}, "Autoscaling: "), text);
}

const REPLICA = { Sound: "good", Draining: "calm", Lagging: "warn" };

function replicas(seen, told) {
  const pods = new Map(list(told?.pods).map((pod) => [pod.name, pod]));
  const rows = list(seen?.replicas).map((one) => {
    const pod = pods.get(one.name);
    pods.delete(one.name);
    return replica(one.name, one.state, REPLICA[one.state] ?? "bad", one.reason, one, pod);
  });
  for (const pod of pods.values()) {
    rows.push(replica(pod.name, pod.ready ? "Ready" : "Not ready", pod.ready ? "calm" : "busy", pod.step, null, pod));
  }
  if (!rows.length) return el("p", { class: "muted" }, "No replicas.");
  return table("Replicas", ["Pod", "State", "Running", "Waiting", "KV cache", "Node", "Restarts", "Note"], rows);
}

function replica(name, state, tone, note, load, pod) {
  const used = typeof load?.kv_cache_percent === "number" ? `${load.kv_cache_percent} %` : "–";
  return [name, dot(tone, state), number(load?.running), number(load?.waiting), used, pod?.node || "–",
    number(pod?.restarts), note || ""];
}

const dot = (tone, text) => el("span", { class: "dot", "data-tone": tone }, text);

/** Most conditions are well when they are True; Degraded is well when it is False. */
function tone(one) {
  if (one.status === "Unknown") return "calm";
  const good = ["Degraded", "ScalingLimited"].includes(one.type) ? "False" : "True";
  if (one.status === good) return "good";
  return ["Ready", "Serving"].includes(one.type) ? "bad" : one.type === "Progressing" ? "calm" : "warn";
}

function conditions(told, now) {
  const rows = list(told?.conditions).map((one) =>
    [one.type, dot(tone(one), one.status), one.reason, one.message, ago(one.since, now)]);
  return rows.length ? table("Conditions", ["Condition", "Status", "Reason", "Message", "Since"], rows) : null;
}

function events(told, now) {
  const rows = list(told?.events).map((one) =>
    [ago(one.time, now), dot(one.type === "Warning" ? "warn" : "calm", one.type), one.reason,
      one.count > 1 ? `${one.message} (${one.count} times)` : one.message]);
  return rows.length ? table("Events", ["When", "Type", "Reason", "Message"], rows) : null;
}

// --- the whole page ------------------------------------------------------------------------------------------------

function draw(page) {
  heard = Date.now();
  const rows = list(page.services);
  const names = new Set(rows.map((row) => JSON.stringify([row.namespace, row.name])));
  for (const [name, card] of cards) if (!names.has(name)) { card.node.remove(); cards.delete(name); }
  rows.forEach((row, index) => {
    const name = JSON.stringify([row.namespace, row.name]);
    if (!cards.has(name)) cards.set(name, new Card(row));
    const card = cards.get(name);
    card.take(row, page);
    if (at("services").children[index] !== card.node) at("services").insertBefore(card.node, at("services").children[index] ?? null);
  });
  totals(rows);
  filter();
  const operator = page.operator_trouble ? "" : `operator ${page.operator.version}`;
  say(at("who"), [`gateway ${page.gateway.pod}, ${page.gateway.version}`, operator].filter(Boolean).join("  ·  "));
  const notes = [];
  if (page.operator_trouble) notes.push(`${page.operator_trouble} What it knows (conditions, events, sizes) is not shown.`);
  if (page.truncated) notes.push("There are more services than the operator tells of at once.");
  if (!rows.length) notes.push("There is no service that this key may use.");
  notice(notes.join(" "));
  at("ask").hidden = true;
  at("totals").hidden = at("bar").hidden = !rows.length;
  at("forget").hidden = !sessionStorage.getItem(KEY);
}

function totals(rows) {
  const sum = (of) => rows.reduce((total, row) => total + (of(row) ?? 0), 0);
  const slow = Math.max(...rows.map((row) => row.seen?.first_byte_p95_ms ?? -1));
  const well = rows.filter((row) => ["good", "calm"].includes(standing(row)[0])).length;
  const figures = [
    ["Services well", `${well} of ${rows.length}`],
    ["Replicas ready", `${number(sum((row) => row.told?.ready ?? row.seen?.sound))} of ${number(sum((row) => row.told?.desired ?? row.seen?.listed))}`],
    ["In flight", number(sum((row) => row.seen?.in_flight))],
    ["Waiting", number(sum((row) => row.seen?.waiting))],
    ["Requests / s", number(sum((row) => row.seen?.requests_per_second), 2)],
    ["Slowest p95 first byte", duration(slow < 0 ? null : slow)],
  ];
  const parts = at("totals").children;
  figures.forEach(([label, value], index) => {
    if (!parts[index]) at("totals").append(el("div", {}, el("dt", {}, label), el("dd", {})));
    say(parts[index].lastChild, value);
  });
}

function filter() {
  const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const card of cards.values()) {
    card.node.hidden = !words.every((word) => card.text.includes(word));
    shown += card.node.hidden ? 0 : 1;
  }
  say(at("shown"), words.length ? `${shown} of ${cards.size}` : "");
}

function notice(text) {
  say(at("notice"), text);
  at("notice").hidden = !text;
}

function live(state, text) {
  mark(at("live"), "data-state", state);
  say(at("live"), text);
}

function lost(words) {
  live("lost", heard ? `${words}, last heard ${ago(new Date(heard).toISOString(), Date.now() / 1000)}` : words);
  timer = setTimeout(poll, PAUSE);
}

function askForKey(refused) {
  clearTimeout(timer);
  sessionStorage.removeItem(KEY);
  for (const card of cards.values()) card.node.remove();
  cards.clear();
  at("totals").hidden = at("bar").hidden = at("forget").hidden = true;
  notice("");
  say(at("who"), "");
  live("wait", "A key is needed");
  say(at("refused"), refused);
  at("ask").hidden = false;
  at("key").focus();
}

async function poll() {
  clearTimeout(timer);
  if (running || document.hidden) return;
  running = true;
  const key = sessionStorage.getItem(KEY);
  try {
    const headers = key ? { authorization: `Bearer ${key}` } : {};
    const reply = await fetch("state", { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (key !== sessionStorage.getItem(KEY)) {
      timer = setTimeout(poll, 0);
    } else if (reply.status === 401) {
      askForKey(key ? "This key is not valid here." : "");
    } else if (!reply.ok) {
      lost(`The gateway answers with status ${reply.status}`);
    } else {
      draw(await reply.json());
      live("live", "Live");
      timer = setTimeout(poll, PAUSE);
    }
  } catch (error) {
    lost("The gateway does not answer");
  } finally {
    running = false;
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = at("key").value.trim();
  at("key").value = "";
  if (!/^[\x20-\x7e\x80-\xff]+$/.test(key)) { // no header can hold it, so the gateway could not even be asked
    askForKey("This is no key: it has a sign that no request can carry.");
    return;
  }
  sessionStorage.setItem(KEY, key);
  say(at("refused"), "");
  poll();
});
at("forget").addEventListener("click", () => askForKey(""));
at("filter").addEventListener("input", filter);
document.addEventListener("visibilitychange", poll);
poll();
