// Tables: of facts, a name and a value in each row; of data, with a caption and a head.

import { el } from "./dom.js";

export function factTable(rows) {
  const row = ([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value));
  return el("table", {}, el("tbody", {}, ...rows.map(row)));
}

/**
 * A table in a box of its own that scrolls sideways. `columns` are a name, and "text" or "prose" (in
 * lines) where they do not hold figures. The first cell of a row names it.
 */
export function dataTable(caption, columns, rows) {
  const kinds = columns.map(([, kind = "count"]) => kind);
  const heads = columns.map(([name], at) => el("th", { scope: "col", class: kinds[at] }, name));
  const body = el("tbody", {}, ...rows.map((cells) => dataRow(cells, kinds)));
  const table = el(
    "table",
    { class: "data" },
    el("caption", { class: "hidden" }, caption),
    el("thead", {}, el("tr", {}, ...heads)),
    body,
  );
  // In reach of the keyboard, so that it can be scrolled without a pointer.
  return el("div", { class: "scroll", tabIndex: 0, role: "region", ariaLabel: caption }, table);
}

function dataRow([name, ...values], kinds) {
  const cells = values.map((value, at) => el("td", { class: kinds[at + 1] }, value));
  return el("tr", {}, el("th", { scope: "row", class: kinds[0] }, name), ...cells);
}
