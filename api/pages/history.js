// Whole answers of this browser, newest first: bounded, and the reader's to clear.

const NAME = "ragrelay.history";
const MOST = 30;
const LONGEST_PASSAGE = 2000;

/** [{question, answer, sources, citations, done, at}]; what is damaged counts as nothing. */
export function past() {
  try {
    const kept = JSON.parse(localStorage.getItem(NAME) ?? "[]");
    return Array.isArray(kept) ? kept.filter((one) => typeof one?.question === "string" && one.done) : [];
  } catch {
    return [];
  }
}

export function keep({ question, answer, sources, citations, done }) {
  const cut = (text) => Array.from(text).slice(0, LONGEST_PASSAGE).join("");
  const short = sources.map((source) => ({ ...source, text: cut(source.text) }));
  const entry = { question, answer, sources: short, citations, done, at: Date.now() };
  for (let kept = [entry, ...past()].slice(0, MOST); kept.length > 0; kept = kept.slice(0, kept.length >> 1)) {
    try {
      localStorage.setItem(NAME, JSON.stringify(kept));
      return;
    } catch {
      // Full or refused: with fewer, then without.
    }
  }
}

export function clear() {
  try {
    localStorage.removeItem(NAME);
  } catch {
    // Storage is refused, so there is nothing.
  }
}
