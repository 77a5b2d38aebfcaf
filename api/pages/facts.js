// What an answer cost: where it came from, how long each stage took, tokens and money.

import { el } from "./dom.js";
import { shortModel, shownEuro, shownMs, shownSeconds } from "./formats.js";

const FINDING = ["auth", "cache", "condense", "embed", "fuse", "rerank"];
/** In the order of their going. */
const NAMES = {
  auth: "key and limits",
  cache: "cache",
  condense: "understanding the follow-up",
  embed: "embedding",
  dense: "search by meaning",
  sparse: "search by words",
  fuse: "joining",
  rerank: "reranking",
  prompt: "prompt",
  queue: "waiting for a place",
  first_token: "first token",
  generation: "writing, first token included",
  total: "in all",
};
const ENDINGS = { length: "cut off at its longest", no_passages: "nothing found, model not asked" };
const DEGRADED = {
  no_rerank: "not reranked",
  fewer_passages: "fewer passages",
  cut_prompt: "shortened prompt",
  cut_history: "shortened conversation",
  no_cache: "cache not asked",
  ledger_open: "costs counted locally",
  not_condensed: "follow-up taken literally",
};

/** The line beneath an answer, from the data of its `done` event. */
export function factsLine(done) {
  const badges = [cacheBadge(done.cache), `${done.engine} · ${shortModel(done.model)}`, tokens(done), shownCost(done)];
  const warnings = [ENDINGS[done.finish_reason], ...done.degraded.map((name) => DEGRADED[name] ?? name)].filter(Boolean);
  return el(
    "div",
    { class: "facts" },
    el(
      "ul",
      { class: "badges", ariaLabel: "About this answer" },
      ...badges.filter(Boolean).map((badge) => el("li", {}, badge)),
      ...warnings.map((warning) => el("li", { class: "warn" }, warning)),
    ),
    timing(done.latency_ms),
  );
}

function cacheBadge(cache) {
  const age = cache.age_s === null ? "" : `, ${shownSeconds(cache.age_s)} old`;
  return {
    none: null,
    exact: `from the cache${age}`,
    semantic: `from the cache, ${Math.round((cache.similarity ?? 0) * 100)} % alike${age}`,
    coalesced: "shared with an equal question",
  }[cache.kind];
}

function tokens({ usage }) {
  const sum = usage.prompt_tokens + usage.completion_tokens;
  if (sum === 0) return "no tokens";
  return `${usage.estimated ? "about " : ""}${usage.prompt_tokens} + ${usage.completion_tokens} tokens`;
}

function shownCost({ cost_eur: cost }) {
  return cost === 0 ? "no cost" : shownEuro(cost);
}

function timing(ms) {
  const parts = { finding: finding(ms), waiting: (ms.prompt ?? 0) + (ms.queue ?? 0) + (ms.first_token ?? 0) };
  parts.writing = Math.max(0, (ms.generation ?? 0) - (ms.first_token ?? 0));
  const sum = Math.max(0.01, parts.finding + parts.waiting + parts.writing);
  const bar = el("span", { class: "bar", ariaHidden: "true" });
  for (const [name, value] of Object.entries(parts)) {
    const part = el("span", { class: name });
    part.style.flexGrow = value / sum;
    bar.append(part);
  }
  const said = Object.entries(parts).map(([name, value]) => `${name} ${shownMs(value)}`);
  const stages = [...new Set([...Object.keys(NAMES), ...Object.keys(ms)])].filter((stage) => stage in ms);
  const rows = stages.map((stage) =>
    el("tr", {}, el("th", { scope: "row" }, NAMES[stage] ?? stage), el("td", {}, shownMs(ms[stage]))),
  );
  return el(
    "details",
    { class: "timing" },
    el("summary", {}, el("span", {}, shownMs(ms.total ?? sum)), bar, el("span", { class: "hidden" }, said.join(", "))),
    el("p", { class: "where" }, said.join(" · ")),
    el("table", {}, el("tbody", {}, ...rows)),
  );
}

/** Dense and sparse run side by side. */
function finding(ms) {
  const inRow = FINDING.reduce((sum, stage) => sum + (ms[stage] ?? 0), 0);
  return inRow + Math.max(ms.dense ?? 0, ms.sparse ?? 0);
}
