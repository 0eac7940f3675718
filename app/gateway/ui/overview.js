// The operator's overview as tiles and tables.

import { ago, byId, duration, make } from "./dom.js";

const TONES = { completed: "good", running: "busy", queued: "warn", expired: "warn", failed: "bad", refused: "bad" };
const UNBEGUN = ["left", "cancelled", "expired"]; // how what no worker has begun may end, having waited all its time

const total = (list, name) => list.reduce((sum, one) => sum + one[name], 0);
const ready = (workers) => workers.filter((worker) => worker.ready).length;

const FEW = 20; // requests that are shown unless all are wanted

/** `all`: every request that is still known. */
export function draw(overview, all) {
  const { models, gateways, dead_letters: letters, time } = overview;
  const workers = models.flatMap((model) => model.workers.map((worker) => ({ ...worker, model: model.id })));
  byId("tiles").replaceChildren(...tiles(overview, workers));
  byId("models").replaceChildren(table(MODELS, models, "No model is known yet."));
  byId("workers").replaceChildren(table(WORKERS, workers, "No worker lives."));
  const requests = [...overview.running, ...overview.recent].map((one) => ({ ...one, now: time }));
  const columns = gateways.length > 1 ? [...REQUESTS, GATEWAY] : REQUESTS;
  byId("requests").replaceChildren(table(columns, all ? requests : requests.slice(0, FEW), "There has been no request yet."));
  byId("all").hidden = requests.length <= FEW;
  byId("all").textContent = `All ${requests.length}`;
  const last = letters.last.map((letter) => ({ ...letter, now: time }));
  byId("letters").replaceChildren(table(LETTERS, last, letters.error ?? "There are none."));
}

function tiles({ models, gateways, gateway, dead_letters: letters }, workers) {
  const waiting = total(models, "queue_depth");
  const stuck = models.some((model) => model.queue_depth && !ready(model.workers));
  return [
    tile("Waiting", waiting, stuck ? "bad" : waiting ? "warn" : ""),
    tile("Running", `${total(models, "in_flight")} / ${total(models, "capacity")}`),
    tile("Workers", readyOf(workers), ready(workers) ? "" : "bad"),
    tile("Gateways", gateways.length || 1),
    tile("Answering here", gateway.in_flight),
    tile("Dead letters", letters.count ?? "?", letters.count ? "warn" : ""),
  ];
}

const tile = (name, value, tone = "") => make("div", { class: tone }, make("dt", {}, name), make("dd", {}, `${value}`));
const chip = (text, tone = "") => make("span", { class: `chip ${tone}` }, text);
const cut = (text) => make("span", { title: text }, text || "–");

/** Columns are [name, what a cell shows, its classes]. */
function table(columns, rows, none) {
  if (!rows.length) return make("p", { class: "note" }, none);
  const head = columns.map(([name, , classes]) => make("th", { class: classes ?? "", scope: "col" }, name));
  const cells = (row) => columns.map(([name, show, classes]) => make("td", { class: classes ?? "", data: { name } }, show(row)));
  const body = rows.map((row) => make("tr", {}, ...cells(row)));
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
}

const MODELS = [
  ["Model", (model) => [model.id, ...model.aliases].join(", ")],
  ["Workers", ({ workers }) => (ready(workers) ? readyOf(workers) : chip(readyOf(workers), "bad")), "number"],
  ["Waiting", (model) => `${model.queue_depth}`, "number"],
  ["Wait", (model) => wait(model), "number"],
  ["Load", (model) => load(model)],
];

const WORKERS = [
  ["Worker", (worker) => cut(worker.id), "code cut"],
  ["Model", (worker) => cut(worker.model), "cut"],
  ["Host", (worker) => worker.host || "–", "whole"],
  ["State", (worker) => readiness(worker)],
  ["Partitions", (worker) => `${worker.partitions}`, "number"],
  ["Taken, not begun", (worker) => `${worker.waiting}`, "number"],
  ["Load", (worker) => load(worker)],
];

const REQUESTS = [
  ["When", (request) => ago(request.now - (request.ended_at ?? request.created_at)), "soft whole"],
  ["Model", (request) => cut(request.model || "unknown"), "cut"],
  ["Outcome", (request) => outcome(request)],
  ["Timeline", (request) => timeline(request), "line"],
  ["Tenant", (request) => cut(request.tenant), "cut soft"],
  ["Tokens", (request) => `${request.completion_tokens ?? "–"}`, "number"],
  ["Worker", (request) => cut(request.worker), "code cut"],
  ["Request", (request) => cut(request.id), "code cut"],
];

const GATEWAY = ["Gateway", (request) => cut(request.gateway), "code cut"]; // whose log has its access line

const LETTERS = [
  ["When", (letter) => ago(letter.now - letter.at), "soft whole"],
  ["Offset", (letter) => `${letter.offset}`, "number"],
  ["Model", (letter) => letter.model],
  ["Reason", (letter) => letter.reason],
  ["Origin", (letter) => letter.origin, "code"],
  ["Id", (letter) => cut(letter.id), "code cut"],
];

/** Those that take requests, of all that live. */
function readyOf(workers) {
  if (!workers.length) return "none";
  return ready(workers) === workers.length ? `${workers.length}` : `${ready(workers)} of ${workers.length}`;
}

function wait({ queue_depth: depth, estimated_wait_seconds: seconds }) {
  if (!depth) return "none";
  return seconds === null ? "not known" : duration(seconds * 1000);
}

function readiness({ ready, reason }) {
  if (ready) return chip("ready", "good");
  return make("span", {}, chip("not ready", "warn"), ` ${reason || "it has just started"}`);
}

function load({ in_flight: busy, capacity }) {
  return make("div", { class: "load" }, bar([["running", busy], ["free", Math.max(0, capacity - busy)]]), `${busy} / ${capacity}`);
}

function outcome({ state, outcome: ended, status, code }) {
  const word = state ?? ended;
  const detail = code || (ended && status !== 200 ? `${status}` : "");
  return chip(detail ? `${word}, ${detail}` : word, TONES[word]);
}

/** Queued, until the first token, until the end; of one that runs only what is known. */
function timeline(request) {
  if (request.state) return running(request);
  const whole = request.total_ms ?? 0;
  const waited = UNBEGUN.includes(request.outcome) && !request.worker ? whole : request.queue_ms;
  const queued = Math.min(waited ?? 0, whole);
  const first = request.ttft_ms === null ? queued : Math.max(queued, request.ttft_ms);
  const parts = [["queued", queued], ["first", first - queued], ["running", whole - first]];
  const times = [
    waited === null ? null : `queued ${duration(waited)}`,
    request.ttft_ms === null ? null : `first token ${duration(request.ttft_ms)}`,
    `total ${duration(whole)}`,
  ];
  return drawn(parts, times.filter(Boolean).join(" · "));
}

function running({ state, created_at: created, now }) {
  const passed = Math.max(0, (now - created) * 1000);
  return drawn([[state, passed]], `${state} · for ${duration(passed)}`);
}

const drawn = (parts, text) => make("div", {}, bar(parts), make("div", { class: "times" }, text));

/** Lengths beside each other, for the eye alone: the text beside it says the same. */
function bar(parts) {
  const shown = parts.filter(([, length]) => length > 0);
  const made = make("div", { class: "bar" }, ...shown.map(([name]) => make("i", { class: name })));
  const whole = shown.reduce((sum, [, length]) => sum + length, 0);
  shown.forEach(([, length], index) => (made.children[index].style.flexGrow = length / whole));
  made.setAttribute("aria-hidden", "true");
  return made;
}
