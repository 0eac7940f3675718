// The live view: asks for the operator's overview again and again while somebody looks.

import { call } from "./api.js";
import { byId, remember, say } from "./dom.js";
import { draw } from "./overview.js";

const EVERY = 2000; // milliseconds
const HIDDEN =
  "The live view is for the operator: type the operator's key, or open this page on the gateway's own machine or at its ADMIN_PORT. " +
  "A proxy in front does not pass it on.";

const WRONG_KEY =
  "This operator's key was refused. It is one of OPERATOR_KEYS, not a client's key; and a proxy in front does not pass the live view on.";

let timer = 0;
let asking = null; // the AbortController of the request that is under way
let paused = false;
let all = false;

export function startLive() {
  remember(byId("operator"));
  byId("watch").addEventListener("submit", (event) => {
    event.preventDefault();
    pause(false);
  });
  byId("pause").addEventListener("click", () => pause(!paused));
  byId("all").addEventListener("click", () => {
    all = !all;
    byId("all").setAttribute("aria-pressed", String(all));
    pause(false);
  });
  document.addEventListener("visibilitychange", () => watchLive());
}

function pause(wanted) {
  paused = wanted;
  byId("pause").setAttribute("aria-pressed", String(paused));
  if (paused) {
    stopLive();
    say(byId("live-state"), "idle", "Paused");
  } else watchLive();
}

/** Asks now, and again every two seconds. */
export function watchLive() {
  stopLive();
  if (!paused && !document.hidden && !byId("live").hidden) look();
}

export function stopLive() {
  clearTimeout(timer);
  asking?.abort();
}

async function look() {
  const mine = (asking = new AbortController());
  const key = byId("operator").value;
  try {
    const response = await call("admin/overview", key, { signal: mine.signal });
    show(await response.json());
  } catch (error) {
    if (mine.signal.aborted) return;
    byId("views").hidden = true;
    say(byId("live-state"), "failed", error.status === 404 ? (key ? WRONG_KEY : HIDDEN) : error.message);
  }
  if (!mine.signal.aborted) timer = setTimeout(look, EVERY);
}

function show(overview) {
  const { unready, id, version } = overview.gateway;
  byId("views").hidden = false;
  if (unready.length) say(byId("live-state"), "failed", `Gateway ${id} is not ready: ${unready.join("; ")}`);
  else say(byId("live-state"), "done", `Gateway ${id}, version ${version}`);
  if (!marking()) draw(overview, all);
}

/** Whether somebody marks text here, which a new table would take away. */
function marking() {
  const marked = getSelection();
  return !marked.isCollapsed && byId("views").contains(marked.anchorNode);
}
