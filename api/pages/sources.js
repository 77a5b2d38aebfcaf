// The passages an answer was written from, with what its sentences rest on highlighted.

import { el } from "./dom.js";

/** `element` to show; `set(sources)`, then `highlight(citations)`, `light(index)`, `open(n)`. */
export function sourceList() {
  const list = el("ol", { class: "sources" });
  const heading = el("h3", { class: "label" }, "Sources");
  const element = el("aside", { ariaLabel: "Sources", class: "beside" }, heading, list);
  const cards = new Map();
  element.hidden = true;

  function set(sources) {
    cards.clear();
    list.replaceChildren(...sources.map((source) => newCard(source, cards)));
    element.hidden = sources.length === 0;
  }

  function highlight(citations) {
    for (const [n, card] of cards) {
      const spans = citations.flatMap((citation, index) =>
        citation.sources
          .filter((source) => source.n === n)
          .map(({ start, end }) => ({ start: start - card.source.start, end: end - card.source.start, index })),
      );
      card.passage.replaceChildren(...pieces(card.source.text, spans));
      show(card, card.passage.querySelector("mark"));
    }
  }

  /** Bring out what sentence `index` rests on; null for none. */
  function light(index) {
    for (const card of cards.values()) {
      const marks = [...card.passage.querySelectorAll("mark")];
      const lit = marks.filter((mark) => mark.dataset.sentences.split(" ").includes(String(index)));
      for (const mark of marks) mark.classList.toggle("on", lit.includes(mark));
      card.element.classList.toggle("on", lit.length > 0);
      if (lit.length > 0) show(card, lit[0]);
    }
  }

  function open(n) {
    const card = cards.get(n);
    if (card === undefined) return;
    expand(card, true);
    card.title.focus({ preventScroll: true });
    card.element.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }

  return { element, set, highlight, light, open };
}

let made = 0;

function newCard(source, cards) {
  const passage = el("p", { class: "passage", id: `passage-${++made}` }, source.text);
  const title = el(
    "button",
    { type: "button", class: "title", ariaExpanded: "false", "aria-controls": passage.id },
    el("span", { class: "number" }, String(source.n)),
    el("span", {}, (source.title || source.doc_id).replaceAll(" > ", " › ")),
  );
  const element = el("li", { class: "source" }, title, el("p", { class: "where" }, source.doc_id), passage);
  const card = { source, element, title, passage };
  title.onclick = () => expand(card, title.ariaExpanded !== "true");
  cards.set(source.n, card);
  return element;
}

function expand(card, isOpen) {
  card.title.ariaExpanded = String(isOpen);
  card.element.classList.toggle("open", isOpen);
  if (!isOpen) show(card, card.passage.querySelector("mark"));
}

/** Scroll a folded passage, and nothing around it, so that the mark is in sight. */
function show({ passage }, mark) {
  passage.scrollTop = mark ? mark.offsetTop - 4 : 0;
}

/** The text cut at the spans' ends; spans count code points, strings here count UTF-16 units. */
function pieces(text, spans) {
  const points = Array.from(text);
  const within = (offset) => Math.min(points.length, Math.max(0, offset));
  const inside = spans.map((span) => ({ ...span, start: within(span.start), end: within(span.end) }));
  const cuts = [...new Set([0, points.length, ...inside.flatMap(({ start, end }) => [start, end])])];
  cuts.sort((a, b) => a - b);
  return cuts.slice(1).map((end, at) => {
    const start = cuts[at];
    const piece = points.slice(start, end).join("");
    const sentences = inside.filter((span) => span.start <= start && span.end >= end).map(({ index }) => index);
    return sentences.length === 0 ? piece : el("mark", { "data-sentences": sentences.join(" ") }, piece);
  });
}
