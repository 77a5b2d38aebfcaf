// Finding the answer's sentences in its rendered form, and the numbers that point at sources.
// Markdown changes white space and signs, so letters and digits alone are compared, in order.

import { button, el } from "./dom.js";

const KEPT = /[\p{L}\p{N}]/u;
const MARKER = /\[(\d+(?:\s*,\s*\d+)*)\]/;
const CLOSING = /^[\])}.,;:!?…"'”’»*]+/;
const LINK_TARGET = /\]\([^)]*\)/g;

/**
 * Wrap each sentence of `citations` in spans with `data-sentence`, and turn [n] into buttons.
 * `answer` is the text that `root` was rendered from; citations count its code points.
 */
export function mark(root, answer, citations, numbers) {
  const points = Array.from(answer);
  const shown = lettersOf(root);
  const found = [];
  let from = 0;
  citations.forEach((citation, index) => {
    const text = points.slice(citation.start, citation.end).join("");
    const letters = kept(text.replace(LINK_TARGET, "]"));
    const at = letters === "" ? -1 : shown.text.indexOf(letters, from);
    if (at < 0) return;
    from = at + letters.length;
    found.push({ index, citation, text, first: shown.places[at], last: shown.places[from - 1] });
  });
  for (const sentence of found.reverse()) wrap(root, sentence, numbers);
  linkMarkers(root, numbers);
}

function wrap(root, { index, citation, text, first, last }, numbers) {
  const nodes = textNodes(root);
  const span = nodes.slice(nodes.indexOf(first.node), nodes.indexOf(last.node) + 1);
  let end = null;
  for (const node of span.reverse()) {
    const until = node === last.node ? closingAfter(node, last.offset) : node.length;
    const since = node === first.node ? first.offset : 0;
    if (until < node.length) node.splitText(until);
    const middle = since > 0 ? node.splitText(since) : node;
    const wrapped = el("span", { class: `sentence ${citation.kind}`, "data-sentence": index });
    middle.replaceWith(wrapped);
    wrapped.append(middle);
    end ??= wrapped;
  }
  if (citation.kind === "unsupported") end.append(el("span", { class: "hidden" }, " (not found in the sources)"));
  if (MARKER.test(text)) return;
  const named = citation.sources.map(({ n }) => n).filter((n) => numbers.has(n));
  end.append(el("span", { class: "refs" }, ...named.map(reference)));
}

function linkMarkers(root, numbers) {
  for (let node of textNodes(root)) {
    if (node.parentElement?.closest("code, button")) continue;
    for (let match; (match = MARKER.exec(node.data)); ) {
      const named = match[1].split(",").map(Number).filter((n) => numbers.has(n));
      const marker = node.splitText(match.index);
      node = marker.splitText(match[0].length);
      if (named.length > 0) marker.replaceWith(...named.map(reference));
    }
  }
}

function reference(n) {
  return button(String(n), null, { class: "ref", "data-source": n, ariaLabel: `Source ${n}` });
}

function closingAfter(node, offset) {
  const next = offset + String.fromCodePoint(node.data.codePointAt(offset)).length;
  const closing = CLOSING.exec(node.data.slice(next));
  return next + (closing ? closing[0].length : 0);
}

function lettersOf(root) {
  const places = [];
  let text = "";
  for (const node of textNodes(root)) {
    let offset = 0;
    for (const character of node.data) {
      if (KEPT.test(character)) {
        text += character;
        for (let unit = 0; unit < character.length; unit++) places.push({ node, offset });
      }
      offset += character.length;
    }
  }
  return { text, places };
}

function kept(text) {
  return Array.from(text).filter((character) => KEPT.test(character)).join("");
}

function textNodes(root) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) nodes.push(walker.currentNode);
  return nodes;
}
