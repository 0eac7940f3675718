// The page: its two views, by the address behind #, and its colours.

import { byId } from "./dom.js";
import { startLive, stopLive, watchLive } from "./live.js";
import { startPlayground } from "./playground.js";

const VIEWS = ["playground", "live"];
const THEMES = ["auto", "light", "dark"];

let shown = VIEWS[0];

/** The view that the address names, or the one that is there: #main is no view. */
function show() {
  const wanted = location.hash.slice(1);
  const view = VIEWS.includes(wanted) ? wanted : shown;
  shown = view;
  for (const name of VIEWS) {
    byId(name).hidden = name !== view;
    if (name === view) byId(`to-${name}`).setAttribute("aria-current", "page");
    else byId(`to-${name}`).removeAttribute("aria-current");
  }
  if (view === "live") watchLive();
  else stopLive();
}

function paint(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
}

function startTheme() {
  paint(THEMES.find((name) => name === localStorage.getItem("llm-gateway.theme")) ?? THEMES[0]);
  byId("theme").addEventListener("click", () => {
    const now = THEMES.indexOf(document.documentElement.dataset.theme);
    const next = THEMES[(now + 1) % THEMES.length];
    localStorage.setItem("llm-gateway.theme", next);
    paint(next);
  });
}

startTheme();
startLive();
addEventListener("hashchange", show);
show();
if (!(await startPlayground())) {
  // The operator's own port: the API is elsewhere.
  for (const id of ["to-playground", "to-docs"]) byId(id).hidden = true;
  location.hash = "live";
}
