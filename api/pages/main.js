// Start: one view at a time by the address's hash, keys of the whole page, theme, offline.

import { hideAnalytics, mountAnalytics, showAnalytics } from "./analytics.js";
import { focusBox, hideAsk, mountAsk, showAsk, stopAnswer } from "./ask.js";
import { hideDocuments, mountDocuments, showDocuments } from "./documents.js";
import { askForKey, currentKey } from "./keys.js";
import { hideStatus, mountStatus, showStatus } from "./status.js";

const VIEWS = {
  ask: { mount: mountAsk, show: showAsk, hide: hideAsk, title: "Ask" },
  documents: { mount: mountDocuments, show: showDocuments, hide: hideDocuments, title: "Documents" },
  status: { mount: mountStatus, show: showStatus, hide: hideStatus, title: "Status" },
  analytics: { mount: mountAnalytics, show: showAnalytics, hide: hideAnalytics, title: "Analytics" },
};
let shown = null;

function show() {
  const hash = location.hash.slice(1);
  if (hash === "main") return;
  const name = hash in VIEWS ? hash : "ask";
  if (name === shown) return;
  VIEWS[shown]?.hide();
  shown = name;
  for (const id of Object.keys(VIEWS)) document.getElementById(id).hidden = id !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${VIEWS[name].title} · ragrelay`;
  VIEWS[name].show();
}

function onKey(event) {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) stopAnswer();
  const isWriting = event.target.closest("input, textarea, select, dialog");
  if (event.key !== "/" || isWriting || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  location.hash = "#ask";
  show();
  focusBox();
}

function wireTools() {
  const theme = document.getElementById("theme");
  const label = () => (theme.textContent = window.ragrelayTheme.isDark ? "Light" : "Dark");
  theme.onclick = () => {
    window.ragrelayTheme.toggle();
    label();
  };
  label();
  document.getElementById("key").onclick = async () => {
    const reason = currentKey() ? "A key is set." : "Where the server wants a key, it goes with each request.";
    if (await askForKey(reason)) VIEWS[shown].show();
  };
  const offline = document.getElementById("offline");
  const watch = () => (offline.hidden = navigator.onLine);
  addEventListener("offline", watch);
  addEventListener("online", watch);
  watch();
}

for (const [name, view] of Object.entries(VIEWS)) view.mount(document.getElementById(name));
addEventListener("hashchange", show);
addEventListener("keydown", onKey);
wireTools();
show();
