// The newest answers of a window as a table, page after page, by how they ended.

import { getJson } from "./api.js";
import { button, el } from "./dom.js";
import { NONE, shortModel, shownEuro, shownMs, shownWhen } from "./formats.js";
import { CACHES, OUTCOMES, named } from "./outcomes.js";
import { dataTable } from "./tables.js";
import { trouble } from "./troubles.js";

const PAGE = 25;
const ALL = "";
const UNANSWERED = "unanswered=true";
const COLUMNS = [
  ["When", "text"], ["Ended", "text"], ["Came from", "text"], ["In all"], ["First token"], ["Tokens"], ["Cost"],
  ["Feedback"],
];
const RATINGS = { up: "helpful", down: "not helpful" };

/** `element` to show, `load` it for a window. */
export function answerLog() {
  const filter = el("select", { id: "ended", onchange: () => read() });
  const box = el("div", {});
  const state = el("p", { class: "where", role: "status" });
  const more = button("Show more", () => read(next), { hidden: true });
  const label = el("label", { htmlFor: "ended", class: "where" }, "Ended");
  const element = el("div", {}, el("div", { class: "row over" }, label, filter), box, state, more);
  let answers = [];
  let next = null;
  let window = null;
  let latest = 0;

  async function load(hours, outcomes, isOurs) {
    window = { hours, isOurs };
    offer(outcomes);
    await read();
  }

  function offer(outcomes) {
    const kept = filter.value;
    const options = [[ALL, "all"], [UNANSWERED, "found nothing"]];
    options.push(...outcomes.map((name) => [`outcome=${encodeURIComponent(name)}`, named(OUTCOMES, name)]));
    if (!options.some(([value]) => value === kept)) options.push([kept, named(OUTCOMES, kept.replace("outcome=", ""))]);
    filter.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
    filter.value = kept;
  }

  /** From the newest on, or `after` a page; what was overtaken is dropped. */
  async function read(after = null) {
    const mine = ++latest;
    const { hours, isOurs } = window;
    const isWanted = () => mine === latest && isOurs();
    const query = [`hours=${hours}`, `limit=${PAGE}`, filter.value, after && `after=${after}`];
    try {
      const page = await getJson(`analytics/queries?${query.filter(Boolean).join("&")}`);
      if (!isWanted()) return;
      answers = after === null ? page.answers : [...answers, ...page.answers];
      next = page.next;
      draw();
    } catch (error) {
      if (!isWanted()) return;
      // What is there of another window or way of ending would be taken for the one chosen.
      if (after === null) box.replaceChildren();
      more.hidden = after === null;
      state.textContent = `${trouble(error).title}.`;
    }
  }

  function draw() {
    const hasText = answers.some(({ question }) => question !== null);
    const columns = hasText ? [COLUMNS[0], ["Question", "prose"], ...COLUMNS.slice(1)] : COLUMNS;
    const table = dataTable("Newest answers", columns, answers.map((answer) => cells(answer, hasText)));
    box.replaceChildren(...(answers.length > 0 ? [table] : []));
    more.hidden = next === null;
    state.textContent = answers.length > 0 ? `${answers.length}${next === null ? "" : " and more"}` : "None.";
  }

  return { element, load };
}

function cells(answer, hasText) {
  const { prompt_tokens, completion_tokens, feedback } = answer;
  const told = [
    ended(answer),
    from(answer),
    shownMs(answer.total_ms),
    shownMs(answer.first_token_ms),
    `${prompt_tokens} + ${completion_tokens}`,
    shownEuro(answer.cost_eur),
    feedback.map(({ rating }) => named(RATINGS, rating)).join(", ") || NONE,
  ];
  const when = el("time", { title: `Request ${answer.request_id}` }, shownWhen(answer.at));
  return [when, ...(hasText ? [answer.question ?? NONE] : []), ...told];
}

function ended({ outcome, error, unanswered }) {
  const name = unanswered ? "found nothing" : named(OUTCOMES, outcome);
  const tone = outcome === "ok" ? (unanswered ? "" : "ok") : "down";
  return el("span", { class: `light ${tone}`, title: error }, name);
}

function from({ cache, engine, model, experiment, variant }) {
  const source = cache === "none" ? (engine ? `${engine} · ${shortModel(model)}` : "no engine") : named(CACHES, cache);
  return experiment ? `${source} (${variant})` : source;
}
