// The view of the log: what a window of time brought. Read when opened, chosen or refreshed.

import { answerLog } from "./answerlog.js";
import { getJson } from "./api.js";
import { announce, button, el } from "./dom.js";
import { experimentCards } from "./experiments.js";
import { NONE, shownCount, shownEuro, shownMs, shownShare, shownSum, shownWhen, shortModel } from "./formats.js";
import { CACHES, OUTCOMES, failedOf, named } from "./outcomes.js";
import { dataTable, factTable } from "./tables.js";
import { trouble } from "./troubles.js";

const RETRY_S = 5;
const QUESTIONS = 20;
const WINDOWS = [
  { hours: 1, label: "1 h", said: "the last hour" },
  { hours: 24, label: "24 h", said: "the last 24 hours" },
  { hours: 168, label: "7 days", said: "the last 7 days" },
  { hours: 720, label: "30 days", said: "the last 30 days" },
];
const ENGINE_COLUMNS = [
  ["Engine and model", "text"], ["Answers"], ["Failed"], ["Tokens"], ["Cost"], ["p50"], ["p95"],
  ["First token p50"], ["First token p95"],
];
const QUESTION_COLUMNS = [["Question", "prose"], ["Failed"], ["Found nothing"], ["Last"]];

const state = el("p", { class: "where", role: "status" });
const notice = el("div", {});
const figures = el("div", { class: "figures" });
const bodies = new Map(
  ["How they ended", "Saved by the cache", "Tokens and feedback", "Engines", "Failed or found nothing"].map(
    (name) => [name, el("div", {})],
  ),
);
const experiments = experimentCards();
const log = answerLog();
const content = el("div", { class: "log", hidden: true });
const choices = WINDOWS.map((choice) => button(choice.label, () => choose(choice), { ariaPressed: "false" }));
let chosen = WINDOWS[1];
let latest = 0;
let again = null;

export function mountAnalytics(section) {
  const narrow = ["How they ended", "Saved by the cache", "Tokens and feedback"].map((name) => card(name));
  content.append(
    card("Answers", { body: figures, wide: true }),
    el("div", { class: "cards" }, ...narrow),
    card("Engines", { wide: true }),
    experiments.element,
    card("Failed or found nothing", { wide: true }),
    card("Newest answers", { body: log.element, wide: true }),
  );
  const windows = el("div", { class: "segments", role: "group", ariaLabel: "Window of time" }, ...choices);
  section.append(
    el("h1", {}, "Analytics"),
    el("div", { class: "row over" }, windows, button("Refresh", load, { class: "quiet" }), state),
    notice,
    content,
  );
}

export function showAnalytics() {
  load();
}

export function hideAnalytics() {
  latest++;
  clearTimeout(again);
}

function choose(choice) {
  chosen = choice;
  load();
}

/** The summary first: it tells whether there is a log that the key may read. */
async function load() {
  clearTimeout(again);
  const mine = ++latest;
  const isOurs = () => mine === latest;
  const { hours } = chosen;
  choices.forEach((choice, at) => (choice.ariaPressed = String(WINDOWS[at] === chosen)));
  state.textContent = "Reading the log …";
  content.ariaBusy = "true";
  try {
    const summary = await getJson(`analytics/summary?hours=${hours}`);
    if (!isOurs()) return;
    if (summary.answers === 0) return tell(...nothing());
    showSummary(summary);
    await Promise.all([
      part("Saved by the cache", `savings?hours=${hours}`, savings, isOurs),
      part("Engines", `engines?hours=${hours}`, engines, isOurs),
      part("Failed or found nothing", `questions?hours=${hours}&limit=${QUESTIONS}`, questions, isOurs),
      experiments.load(summary.experiments, hours, isOurs),
      log.load(hours, Object.keys(summary.outcomes), isOurs),
    ]);
    if (!isOurs()) return;
    notice.replaceChildren();
    content.hidden = false;
    state.textContent = `${chosen.said}, as of ${new Date().toLocaleTimeString()}`;
  } catch (error) {
    if (!isOurs()) return;
    tell(...refused(error));
    if (error.retryable) again = setTimeout(load, (error.retryAfterS ?? RETRY_S) * 1000);
  } finally {
    if (isOurs()) content.ariaBusy = "false";
  }
}

/** Say it in place of all figures. */
function tell(title, ...advice) {
  state.textContent = "";
  content.hidden = true;
  const told = advice.map((text) => el("p", {}, text));
  notice.replaceChildren(el("div", { class: "notice" }, el("strong", {}, title), ...told));
  announce(title);
}

const nothing = () => [
  `No answers in ${chosen.said}`,
  "What is asked shows here a second after its answer. A longer window may hold more.",
];

function refused(error) {
  if (error.status === 404) {
    return ["This server keeps no log", "DATABASE_URL is off. Without it, or with the address of a database, answers are logged."];
  }
  if (error.status === 403) {
    return ["Your key may not read the log", "It needs the scope admin. Key, at the top, takes another."];
  }
  if (error.status === 401) return ["A key is needed", "One with the scope admin; Refresh asks for it."];
  const { title, advice, detail } = trouble(error);
  const told = error.retryable ? "Asking again by itself." : detail;
  return [title, ...[advice, told].filter(Boolean)];
}

/** Fill a card from a route; what it cannot have is said in its place. */
async function part(name, path, shown, isOurs) {
  const body = bodies.get(name);
  try {
    const told = await getJson(`analytics/${path}`);
    if (isOurs()) body.replaceChildren(...shown(told));
  } catch (error) {
    if (isOurs()) body.replaceChildren(el("p", { class: "where" }, `${trouble(error).title}.`));
  }
}

function showSummary(summary) {
  const { answers, outcomes, errors, unanswered, cost_eur, latency_ms, feedback } = summary;
  const { up = 0, down = 0 } = feedback;
  const { ok = 0 } = outcomes;
  const failed = failedOf(outcomes);
  figures.replaceChildren(
    figure(shownCount(answers), "answers"),
    figure(shownShare(ok, answers), `ok, ${shownCount(failed)} failed`),
    figure(shownCount(unanswered), `found nothing, ${shownShare(unanswered, answers)}`),
    figure(shownEuro(cost_eur), "cost"),
    figure(shownMs(latency_ms.p50), `median; 95 % within ${shownMs(latency_ms.p95)}`),
    figure(shownShare(up, up + down), `helpful, of ${shownCount(up + down)} judged`),
  );
  const counted = (names, counts) =>
    Object.entries(counts).map(([name, count]) => [named(names, name), `${shownCount(count)} · ${shownShare(count, answers)}`]);
  const codes = Object.entries(errors).map(([code, count]) => `${code} ${shownCount(count)}`);
  bodies.get("How they ended").replaceChildren(
    factTable(counted(OUTCOMES, outcomes)),
    el("p", { class: "where" }, codes.length > 0 ? `Errors: ${codes.join(", ")}` : ""),
  );
  bodies.get("Tokens and feedback").replaceChildren(
    factTable([
      ["tokens of prompts", shownCount(summary.prompt_tokens)],
      ["tokens of answers", shownCount(summary.completion_tokens)],
      ["cost of an answer", shownEuro(cost_eur / answers)],
      ["helpful", shownCount(up)],
      ["not helpful", shownCount(down)],
    ]),
  );
}

function figure(value, label) {
  return el("p", { class: "figure" }, value, el("span", {}, label));
}

function savings({ eur, seconds, kinds, mean_engine_eur, mean_engine_seconds, engine_answers }) {
  if (kinds.length === 0) return [el("p", { class: "where" }, "No answer came from the cache.")];
  const compared = `Compared with ${shownEuro(mean_engine_eur)} and ${shownMs(mean_engine_seconds * 1000)} of an engine’s answer.`;
  return [
    figure(engine_answers > 0 ? shownEuro(eur) : NONE, engine_answers > 0 ? `and ${shownSum(seconds)} of waiting` : "unknown"),
    factTable(kinds.map(({ kind, answers }) => [named(CACHES, kind), shownCount(answers)])),
    el("p", { class: "where" }, engine_answers > 0 ? compared : "No engine answered here to compare with."),
  ];
}

function engines({ engines: found }) {
  if (found.length === 0) return [el("p", { class: "where" }, "No engine was asked.")];
  const rows = found.map((one) => [
    `${one.engine} · ${shortModel(one.model)}`,
    shownCount(one.answers),
    shownCount(one.failed),
    shownCount(one.prompt_tokens + one.completion_tokens),
    shownEuro(one.cost_eur),
    shownMs(one.latency_ms.p50),
    shownMs(one.latency_ms.p95),
    shownMs(one.first_token_ms.p50),
    shownMs(one.first_token_ms.p95),
  ]);
  return [dataTable("Answers by engine and model", ENGINE_COLUMNS, rows)];
}

function questions({ keeps_text, questions: found }) {
  if (found.length === 0) {
    const why = keeps_text ? "None." : "The log keeps no questions: LOG_TEXT is off.";
    return [el("p", { class: "where" }, why)];
  }
  const rows = found.map(({ question, asked, unanswered, last_at }) => [
    question,
    shownCount(asked - unanswered),
    shownCount(unanswered),
    shownWhen(last_at),
  ]);
  const all = found.length < QUESTIONS ? "" : `The ${QUESTIONS} that did so most often.`;
  return [
    dataTable("Questions that failed or found nothing", QUESTION_COLUMNS, rows),
    el("p", { class: "where" }, all),
  ];
}

function card(name, { body = bodies.get(name), wide = false } = {}) {
  return el("section", { class: wide ? "card wide" : "card", ariaLabel: name }, el("h2", {}, name), body);
}
