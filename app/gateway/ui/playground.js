// The form: which model, what to ask, and what came back.

import { address, call } from "./api.js";
import { chat } from "./chat.js";
import { byId, duration, make, remember, say } from "./dom.js";
import { asCurl, asPython } from "./snippets.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const OUTPUTS = ["place", "first", "rate", "tokens", "total"];

const ENDS = { length: "Done: cut off at the longest reply", content_filter: "Done: cut off by a content filter" };

let running = null; // the AbortController of the chat that runs
let clock = 0;

/** Sets the form up. Says whether the API is at this address at all. */
export async function startPlayground() {
  for (const id of ["key", "system", "user", "more", ...NUMBERS]) remember(byId(id));
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("stop").addEventListener("click", stop);
  byId("reload").addEventListener("click", loadModels);
  byId("model").addEventListener("change", nameChosen);
  byId("key").addEventListener("change", loadModels);
  byId("more").addEventListener("input", () => byId("more").setCustomValidity(""));
  onClick("as-curl", () => copy(asCurl(address("v1/chat/completions"), request(), hasKey())));
  onClick("as-python", () => copy(asPython(address("v1"), request(), more(), hasKey())));
  document.addEventListener("keydown", onKey);
  return (await loadModels()) !== 404;
}

/** Runs the action, unless the extra fields are no JSON: then the field says so. */
function unlessFaulty(action) {
  try {
    return action();
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return undefined;
  }
}

function onClick(id, action) {
  byId(id).addEventListener("click", () => unlessFaulty(action));
}

const hasKey = () => byId("key").value !== "";

function onKey(event) {
  if (byId("playground").hidden) return;
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
}

/** The status that the list of models came with: 200, or why not. */
async function loadModels() {
  const note = byId("models-note");
  try {
    const { data } = await (await call("v1/models", byId("key").value)).json();
    showModels(data);
    note.textContent = data.length ? "" : "No model is known yet: a worker announces its own.";
    note.classList.remove("bad");
    return 200;
  } catch (error) {
    note.textContent = error.message;
    note.classList.add("bad");
    return error.status;
  }
}

function showModels(models) {
  const field = byId("model");
  const chosen = field.value;
  field.replaceChildren(...models.map((model) => make("option", { value: model.id }, `${model.id} (${busy(model)})`)));
  const preferred = models.find((model) => model.id === chosen) ?? models.find((model) => model.workers) ?? models[0];
  field.value = preferred?.id ?? "";
  nameChosen();
}

/** The whole of it where the pointer rests, as a name may be longer than its box. */
function nameChosen() {
  byId("model").title = byId("model").selectedOptions[0]?.textContent ?? "";
}

function busy(model) {
  const workers = `${model.workers || "no"} worker${model.workers === 1 ? "" : "s"}`;
  return model.queue_depth ? `${workers}, ${model.queue_depth} waiting` : workers;
}

/** The extra fields. Throws SyntaxError, and says it at the field. */
function more() {
  const field = byId("more");
  try {
    const found = JSON.parse(field.value.trim() || "{}");
    if (found === null || typeof found !== "object" || Array.isArray(found)) throw new SyntaxError("not an object");
    return found;
  } catch (error) {
    field.closest("details").open = true;
    field.setCustomValidity(`This is no JSON object: ${error.message}`);
    field.reportValidity();
    throw error;
  }
}

/** The request's body as the form says it. */
function request() {
  const [system, user, stream] = [byId("system").value, byId("user").value, byId("stream").checked];
  const numbers = NUMBERS.filter((name) => byId(name).value !== "").map((name) => [name, Number(byId(name).value)]);
  return {
    model: byId("model").value,
    messages: [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: user }],
    ...Object.fromEntries(numbers),
    ...(stream ? { stream, stream_options: { include_usage: true } } : {}),
    ...more(),
  };
}

async function send() {
  if (running) return;
  const body = unlessFaulty(request);
  if (!body) return;
  const mine = (running = new AbortController());
  byId("stop").disabled = false;
  byId("send").disabled = true;
  clear();
  try {
    const { finish } = await chat(body, byId("key").value, mine.signal, show);
    say(byId("state"), "done", ENDS[finish] ?? "Done");
  } catch (error) {
    if (mine.signal.aborted) say(byId("state"), "idle", "Stopped");
    else say(byId("state"), "failed", error.message);
  } finally {
    clearInterval(clock);
    running = null;
    byId("stop").disabled = true;
    byId("send").disabled = false;
  }
}

function stop() {
  running?.abort();
}

function clear() {
  byId("state").scrollIntoView({ block: "nearest" }); // on a phone it is below the form
  for (const id of OUTPUTS) byId(id).textContent = "–";
  for (const id of ["answer", "reasoning", "request-id"]) byId(id).textContent = "";
  byId("thinking").hidden = true;
}

const show = {
  began(measured) {
    say(byId("state"), "waiting", "Waiting for a worker");
    clock = setInterval(() => (byId("total").textContent = duration(measured.total)), 100);
  },
  id(text) {
    byId("request-id").textContent = text;
  },
  place(ahead, seconds) {
    byId("place").textContent = seconds === null ? `${ahead}` : `${ahead}, ${duration(seconds * 1000)}`;
  },
  text(piece) {
    append(byId("answer"), piece);
  },
  thought(piece) {
    byId("thinking").hidden = false;
    append(byId("reasoning"), piece);
  },
  measured(measured) {
    if (measured.pieces === 1 && byId("place").textContent === "–") byId("place").textContent = "0"; // it was never told to wait
    byId("first").textContent = duration(measured.untilFirst);
    byId("rate").textContent = measured.rate ? measured.rate.toFixed(measured.rate < 100 ? 1 : 0) : "–";
    byId("tokens").textContent = measured.tokens ?? "–";
    if (measured.ended !== null) byId("total").textContent = duration(measured.total);
  },
};

/** One text that grows: many nodes of a word each would cost more with every word. */
function append(element, piece) {
  if (running) say(byId("state"), "running", "Answering");
  if (element.firstChild) element.firstChild.appendData(piece);
  else element.append(piece);
}

async function copy(text) {
  const shown = byId("snippet");
  shown.textContent = text;
  shown.hidden = false;
  const note = byId("copied");
  try {
    await navigator.clipboard.writeText(text);
    note.textContent = hasKey() ? "Copied; it takes the key from OPENAI_API_KEY" : "Copied";
  } catch {
    getSelection().selectAllChildren(shown); // no clipboard without TLS: it is selected, to be copied by hand
    note.textContent = "Selected below: copy it from there";
  }
}
