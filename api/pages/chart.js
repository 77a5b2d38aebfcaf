// Latency over time as a small line chart, from the difference of two readings of /metrics.

import { el, svg } from "./dom.js";
import { shownMs } from "./formats.js";

const MOST_POINTS = 60;
const WIDTH = 600;
const HEIGHT = 120;
const SERIES = [
  { metric: "rag_query_latency_seconds", name: "whole answer", class: "whole" },
  { metric: "rag_first_token_seconds", name: "first token", class: "first" },
];

/** `element` to show, `read(text)` for each answer of /metrics. */
export function latencyChart() {
  const viewBox = `0 0 ${WIDTH} ${HEIGHT}`;
  const drawing = svg("svg", { viewBox, role: "img", preserveAspectRatio: "none" });
  const caption = el("figcaption", { class: "where" }, "No answers while this view is open.");
  const names = SERIES.map((series) => el("span", { class: series.class }, series.name));
  const legend = el("p", { class: "legend" }, ...names);
  const element = el("figure", { class: "chart" }, legend, drawing, caption);
  const points = SERIES.map(() => []);
  let before = null;

  function read(text) {
    const now = SERIES.map(({ metric }) => ({
      sum: total(text, `${metric}_sum`),
      count: total(text, `${metric}_count`),
    }));
    if (before) SERIES.forEach((_, at) => push(points[at], mean(before[at], now[at])));
    before = now;
    draw();
  }

  function draw() {
    const top = Math.max(...points.flat().filter((ms) => ms !== null), 1);
    drawing.replaceChildren(...SERIES.flatMap((series, at) => line(points[at], top, series.class)));
    const last = points.map((values) => values.findLast((ms) => ms !== null));
    if (last[0] === undefined) drawing.setAttribute("aria-label", caption.textContent);
    else {
      const said = SERIES.map(({ name }, at) => (last[at] === undefined ? null : `${name} ${shownMs(last[at])}`));
      caption.textContent = `Latest: ${said.filter(Boolean).join(", ")}. Highest: ${shownMs(top)}.`;
      drawing.setAttribute("aria-label", `Mean latency over time. ${caption.textContent}`);
    }
  }

  return { element, read };
}

/** Sum of a metric's samples over all labels, in the Prometheus text format. */
function total(text, name) {
  let sum = 0;
  for (const row of text.split("\n")) {
    const isOurs = row.startsWith(`${name}{`) || row.startsWith(`${name} `);
    if (isOurs) sum += Number(row.slice(row.lastIndexOf(" ") + 1));
  }
  return sum;
}

/** Milliseconds, null where nothing was answered between the two readings. */
function mean(before, now) {
  const count = now.count - before.count;
  return count > 0 ? ((now.sum - before.sum) / count) * 1000 : null;
}

function push(values, value) {
  values.push(value);
  if (values.length > MOST_POINTS) values.shift();
}

function line(values, top, name) {
  const place = (ms, at) => [
    ((MOST_POINTS - values.length + at) / (MOST_POINTS - 1)) * (WIDTH - 6) + 2,
    HEIGHT - 4 - (ms / top) * (HEIGHT - 12),
  ];
  const known = values.flatMap((ms, at) => (ms === null ? [] : [place(ms, at)]));
  const path = svg("polyline", { class: name, points: known.map((xy) => xy.join(",")).join(" ") });
  // A zero-length line with round ends is a dot that stays round however the drawing is stretched.
  const dots = known.map(([x, y]) => svg("path", { class: `${name} dot`, d: `M${x} ${y}h0` }));
  return [path, ...dots];
}
