// A card for each experiment of the window: its variants side by side, and the verdict.

import { getJson } from "./api.js";
import { el } from "./dom.js";
import { NONE, shownCount, shownEuro, shownMs } from "./formats.js";
import { dataTable } from "./tables.js";
import { trouble } from "./troubles.js";

const MOST = 4;
/** Each is a request, of 60 in a minute. */
const COLUMNS = [
  ["Variant", "text"], ["Answers"], ["Failed"], ["p50"], ["p95"], ["Cost of one"], ["Helpful"], ["Not helpful"],
  ["Share of those (95 %)"],
];

/** `element` to show, `load` it with those of a window. */
export function experimentCards() {
  const element = el("div", {});

  async function load(names, hours, isOurs) {
    const cards = await Promise.all(names.slice(0, MOST).map((name) => card(name, hours)));
    if (isOurs()) element.replaceChildren(...cards);
  }

  return { element, load };
}

async function card(name, hours) {
  const element = el("section", { class: "card wide", ariaLabel: `Experiment ${name}` }, el("h2", {}, `Experiment ${name}`));
  try {
    element.append(...shown(await getJson(`analytics/experiments/${encodeURIComponent(name)}?hours=${hours}`)));
  } catch (error) {
    element.append(el("p", { class: "where" }, `${trouble(error).title}.`));
  }
  return element;
}

function shown({ experiment, variants, verdict }) {
  const rows = variants.map((one) => [
    one.variant,
    shownCount(one.answers),
    shownCount(one.failed),
    shownMs(one.latency_ms.p50),
    shownMs(one.latency_ms.p95),
    shownEuro(one.mean_cost_eur),
    shownCount(one.up),
    shownCount(one.down),
    rate(one),
  ]);
  return [
    el("p", {}, `By feedback: ${verdict}.`),
    variants.length > 0 ? dataTable(`Experiment ${experiment} by variant`, COLUMNS, rows) : "No answers yet.",
  ];
}

/** "12 % (5 to 27)" */
function rate({ down_rate, down_rate_95 }) {
  if (down_rate === null) return NONE;
  const percent = (share) => Math.round(share * 100);
  return `${percent(down_rate)} % (${percent(down_rate_95.low)} to ${percent(down_rate_95.high)})`;
}
