// One chat: asks, reads the reply, and measures it.

import { Refused, call, told } from "./api.js";
import { eventsOf } from "./events.js";

const PLACE = /^queue position=(\d+)(?: wait=([\d.]+))?/;

/** What is known of a reply so far; times in milliseconds by performance.now(). */
class Measured {
  began = performance.now();
  first = null; // when the first token came
  last = null;
  ended = null;
  pieces = 0;
  usage = null;
  finish = ""; // why it ended, in the model server's word
  upstream = null; // what the model's server took, of a whole reply

  get tokens() {
    return this.usage?.completion_tokens ?? (this.pieces || null);
  }

  get untilFirst() {
    return this.first === null ? null : this.first - this.began;
  }

  get total() {
    return (this.ended ?? performance.now()) - this.began;
  }

  /** Tokens a second: behind the first one of a stream, or all of a whole reply while its server had it. */
  get rate() {
    if (this.upstream) return this.tokens / (this.upstream / 1000);
    return this.tokens > 1 && this.last > this.first ? (this.tokens - 1) / ((this.last - this.first) / 1000) : null;
  }

  came() {
    this.last = performance.now();
    this.first ??= this.last;
    this.pieces += 1;
  }
}

/**
 * Sends the request. `show` is told what comes: began(measured), id(text), place(ahead, seconds), text(piece), thought(piece),
 * measured(measured). Returns what is measured. Throws Refused, and what the signal throws.
 */
export async function chat(request, key, signal, show) {
  const measured = new Measured();
  show.began(measured);
  try {
    const response = await call("v1/chat/completions", key, {
      method: "POST",
      headers: { "content-type": "application/json", "x-queue-updates": "1" },
      body: JSON.stringify(request),
      signal,
    });
    show.id(response.headers.get("x-request-id") ?? "");
    const streamed = response.headers.get("content-type")?.startsWith("text/event-stream");
    await (streamed ? readStream : readWhole)(response, measured, show);
    return measured;
  } finally {
    measured.ended = performance.now();
    show.measured(measured);
  }
}

async function readWhole(response, measured, show) {
  const reply = await response.json();
  const [choice] = reply.choices ?? [];
  measured.finish = choice?.finish_reason ?? "";
  measured.usage = reply.usage ?? null;
  measured.upstream = Number(/upstream;dur=([\d.]+)/.exec(response.headers.get("server-timing") ?? "")?.[1] ?? 0);
  add(choice?.message ?? {}, show);
}

async function readStream(response, measured, show) {
  let complete = false;
  for await (const { data, comment } of eventsOf(response.body)) {
    const place = PLACE.exec(comment ?? "");
    if (place) show.place(Number(place[1]), place[2] ? Number(place[2]) : null);
    else if (data === "[DONE]") complete = true;
    else if (data) take(JSON.parse(data), measured, show);
  }
  if (!complete) throw new Refused("The reply broke off before its end.");
}

function take(chunk, measured, show) {
  if (chunk.error) throw new Refused(told(chunk.error));
  measured.usage = chunk.usage ?? measured.usage;
  const [choice] = chunk.choices ?? [];
  measured.finish = choice?.finish_reason ?? measured.finish;
  if (add(choice?.delta ?? {}, show)) measured.came();
  show.measured(measured);
}

/** Shows what a message or a part of one has; says whether there was any. */
function add(message, show) {
  const thought = message.reasoning_content ?? message.reasoning;
  const calls = message.tool_calls ? JSON.stringify(message.tool_calls) : "";
  const text = (message.content ?? "") + (message.refusal ?? "") + calls;
  if (thought) show.thought(thought);
  if (text) show.text(text);
  return Boolean(thought || text);
}
