// Making and finding elements. Text is only ever put in as text: nothing here reads HTML.

export const byId = (id) => document.getElementById(id);

/** An element with properties (`class`, `data` and the element's own) and children: elements, texts, or nothing. */
export function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  const { class: classes, data, ...own } = properties;
  if (classes) made.className = classes;
  Object.assign(made.dataset, data);
  Object.assign(made, own);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Sets a line that says a state: idle, waiting, running, done or failed. */
export function say(element, state, text) {
  element.dataset.state = state;
  if (element.textContent !== text) element.textContent = text;
}

/** Keeps a field's value while the tab is open, and no longer. */
export function remember(field) {
  const name = `llm-gateway.${field.id}`;
  field.value = sessionStorage.getItem(name) ?? field.value;
  field.addEventListener("input", () => sessionStorage.setItem(name, field.value));
}

/** Milliseconds as a person reads them: 8 ms, 1.24 s, 3 min 5 s. */
export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** How long ago, in one unit. */
export function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s ago`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86_400)} days ago`;
}
