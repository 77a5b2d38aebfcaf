// The view of the server's state: checks, engines, budget, cache, index generations, latency.

import { getJson, postJson, send } from "./api.js";
import { latencyChart } from "./chart.js";
import { ask, button, el } from "./dom.js";
import { shownName, shownSeconds } from "./formats.js";
import { factTable } from "./tables.js";
import { trouble } from "./troubles.js";

const POLL_MS = 5000;
const SLOW_POLLS = 6;
/** Budget and generations change rarely: every sixth time. */

const WORDS = { ok: "Ready", loading: "Loading", unavailable: "Not available", draining: "Stopping" };

const chart = latencyChart();
const overall = el("p", { class: "overall", role: "status" });
const CARDS = ["Checks", "Engines", "Cache", "Budget", "Index"];
const bodies = new Map(CARDS.map((name) => [name, el("div", {})]));
let timer = null;
let polls = 0;

export function mountStatus(section) {
  const card = (name) =>
    el("section", { class: "card", ariaLabel: name }, el("h2", {}, name), bodies.get(name));
  section.append(
    el("h1", {}, "Status"),
    overall,
    el("section", { class: "card wide", ariaLabel: "Latency" }, el("h2", {}, "Latency"), chart.element),
    el("div", { class: "cards" }, ...CARDS.map(card)),
  );
}

export function showStatus() {
  hideStatus();
  polls = 0;
  poll();
}

export function hideStatus() {
  clearTimeout(timer);
  timer = null;
}

async function poll() {
  timer = setTimeout(poll, POLL_MS);
  if (document.visibilityState === "hidden") return;
  const isSlow = polls++ % SLOW_POLLS === 0;
  await Promise.all([
    part("Checks", readStats),
    send("metrics").then((response) => response.text()).then(chart.read).catch(() => {}),
    ...(isSlow ? [part("Budget", readBudget), part("Index", readGenerations)] : []),
  ]);
}

/** Fill a card; what it cannot have is said in its place. */
async function part(name, read) {
  try {
    await read();
  } catch (error) {
    const { title, detail } = trouble(error);
    bodies.get(name).replaceChildren(el("p", { class: "where" }, error.status === 403 ? detail : title));
    if (name === "Checks") overall.textContent = title;
  }
}

async function readStats() {
  const stats = await getJson("health/stats");
  const { status, uptime_s, checks, engines, cache, queue } = stats;
  const down = Object.keys(checks).filter((name) => checks[name].status === "down").map(shownName);
  const trouble = down.length > 0 ? ` Down: ${down.join(", ")}.` : "";
  overall.textContent = `${WORDS[status] ?? status}.${trouble} Up for ${shownSeconds(uptime_s)}.`;
  bodies.get("Checks").replaceChildren(
    factTable(Object.entries(checks).map(([name, check]) => [shownName(name), light(check)])),
  );
  bodies.get("Engines").replaceChildren(
    ...engines.map(engineRow),
    el("p", { class: "where" }, `${queue.waiting} waiting for a place`),
  );
  const off = el("p", { class: "where" }, "The cache is off.");
  bodies.get("Cache").replaceChildren(...(cache ? cacheRows(cache) : [off]));
}

function engineRow({ name, model, context_tokens, in_flight, check }) {
  const context = context_tokens && `${context_tokens} tokens of context`;
  return el(
    "div",
    {},
    el("p", {}, el("strong", {}, name), " ", light(check)),
    el("p", { class: "where" }, facts([model, context, `${in_flight} answering`])),
  );
}

function cacheRows({ hits, misses, entries, size_bytes, store }) {
  const found = Object.values(hits).reduce((sum, count) => sum + count, 0);
  const asked = found + (misses.semantic ?? misses.exact ?? 0);
  const rate = asked > 0 ? `${Math.round((found / asked) * 100)} %` : "–";
  return [
    el("p", { class: "figure" }, rate, el("span", {}, "answered from the cache")),
    factTable([
      ...Object.entries(hits).map(([kind, count]) => [`${kind} hits`, String(count)]),
      ["answers kept", `${entries} (${(size_bytes / 1e6).toFixed(1)} MB)`],
      ["shared store", light({ status: store })],
    ]),
  ];
}

async function readBudget() {
  const { state, counted, scopes } = await getJson("budget");
  const rows = scopes.map(({ scope, window, limit_eur, spent_eur, reserved_eur, reset_s }) =>
    el(
      "div",
      {},
      el("p", {}, `${scope}, per ${shownWindow(window)}: € ${spent_eur.toFixed(4)} of € ${limit_eur.toFixed(2)}`),
      el("meter", { max: Math.max(limit_eur, 1e-6), value: spent_eur + reserved_eur, ariaLabel: `Budget ${scope}` }),
      el("p", { class: "where" }, `begins anew in ${shownSeconds(reset_s)}`),
    ),
  );
  const open = el("p", { class: "warn" }, "Used up: only the cache and search answer.");
  const here = el("p", { class: "warn" }, "The ledger is down; this process counts for itself.");
  const none = el("p", { class: "where" }, "There is no budget.");
  bodies.get("Budget").replaceChildren(
    ...(state === "open" ? [open] : []),
    ...(counted === "here" ? [here] : []),
    ...(rows.length > 0 ? rows : [none]),
  );
}

async function readGenerations() {
  const { generations, current } = await getJson("generations");
  const rows = generations.map((generation) => generationRow(generation, generation.id === current));
  const none = el("p", { class: "where" }, "There is no index yet.");
  bodies.get("Index").replaceChildren(rows.length > 0 ? el("ul", { class: "documents" }, ...rows) : none);
}

function generationRow(generation, isServing) {
  const { id, created_at, documents, passages } = generation;
  const label = { class: "quiet", ariaLabel: `Roll back to ${id}` };
  return el(
    "li",
    {},
    el(
      "div",
      {},
      el("strong", {}, new Date(created_at).toLocaleString()),
      el("p", { class: "where" }, facts([`${documents} documents`, `${passages} passages`, id])),
    ),
    isServing
      ? el("span", { class: "state indexed" }, "serving")
      : button("Roll back", () => rollBack(generation), label),
  );
}

async function rollBack({ id, created_at }) {
  const answered = await ask(
    [
      el("h2", {}, "Serve an earlier index?"),
      el("p", {}, `Answers will come from the index of ${new Date(created_at).toLocaleString()}.`),
      el("p", {}, "What was deleted stays deleted. The next change of a document builds on all of them again."),
      el(
        "div",
        { class: "row end" },
        el("button", { value: "" }, "Stay"),
        el("button", { value: "back", class: "main" }, "Roll back"),
      ),
    ],
    { label: "Serve an earlier index?" },
  );
  if (answered !== "back") return;
  await part("Index", async () => {
    await postJson("generations/rollback", { generation: id });
    await readGenerations();
  });
}

function light({ status, ms, detail }) {
  const time = ms === undefined || ms === null ? "" : ` ${ms.toFixed(0)} ms`;
  return el("span", { class: `light ${status}`, title: detail ?? "" }, `${status}${time}`);
}

/** The configured window is named by its seconds, "3600s". */
function shownWindow(window) {
  return /^\d+s$/.test(window) ? shownSeconds(Number.parseInt(window)) : window;
}

function facts(list) {
  return list.filter(Boolean).join(" · ");
}
