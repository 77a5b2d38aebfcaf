// Figures as people read them: times, money, counts, shares, dates.

const MINUTE_S = 60;
const SMALLEST_EUR = 0.0001;
export const NONE = "–";

/** Whole units of a time that is rather waited for than measured. */
export function shownSeconds(s) {
  if (s < MINUTE_S) return `${Math.ceil(s)} s`;
  if (s < 60 * MINUTE_S) return `${Math.round(s / MINUTE_S)} min`;
  if (s < 48 * 60 * MINUTE_S) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

export function shownMs(ms) {
  if (ms === null) return NONE;
  if (ms < 1) return "< 1 ms";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
}

/** A sum of times, which may be below zero. */
export function shownSum(s) {
  if (s === 0) return "0 s";
  const size = Math.abs(s);
  return `${s < 0 ? "−" : ""}${size < MINUTE_S ? shownMs(size * 1000) : shownSeconds(size)}`;
}

export function shownEuro(eur) {
  if (eur === null) return NONE;
  const size = Math.abs(eur);
  if (size === 0) return "€ 0";
  if (size < SMALLEST_EUR) return `< € ${SMALLEST_EUR}`;
  return `${eur < 0 ? "−" : ""}€ ${size < 0.01 ? size.toFixed(4) : shownNumber(size, 2)}`;
}

export function shownCount(count) {
  return shownNumber(count, 0);
}

/** "0 %" of none is said only where there was something to be a part of. */
export function shownShare(part, whole) {
  if (whole === 0) return NONE;
  const percent = (part / whole) * 100;
  if (percent > 0 && percent < 1) return "< 1 %";
  return `${percent > 99 && percent < 100 ? "> 99" : Math.round(percent)} %`;
}

/** `at` in seconds since the epoch. */
export function shownWhen(at) {
  const parts = { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" };
  return new Date(at * 1000).toLocaleString(undefined, parts);
}

export function shortModel(model) {
  return model.split("/").pop();
}

export function shownName(name) {
  return name.replaceAll("_", " ");
}

function shownNumber(number, digits) {
  return number.toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}
