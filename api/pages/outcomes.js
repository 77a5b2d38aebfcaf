// What the log calls the ways an answer ends and comes from the cache, in words for people.

import { shownName } from "./formats.js";

export const OUTCOMES = {
  ok: "ok",
  client_gone: "left before the end",
  engine_error: "engine failed",
  internal_error: "server failed",
  timeout: "too slow",
  unavailable: "not available",
  bad_request: "not understood",
  rejected_rate: "refused by a limit",
  rejected_budget: "refused by a budget",
  rejected_overload: "refused, engine busy",
};
export const CACHES = {
  none: "engine",
  exact: "cache, same",
  semantic: "cache, alike",
  coalesced: "shared with an equal one",
};
/** Who leaves is no failure. */
const FINE = ["ok", "client_gone"];

export function named(names, name) {
  return Object.hasOwn(names, name) ? names[name] : shownName(name);
}

export function failedOf(outcomes) {
  return Object.entries(outcomes).reduce((sum, [name, count]) => sum + (FINE.includes(name) ? 0 : count), 0);
}
