// What went wrong, in words for people, and what they can do.

import { shownSeconds } from "./formats.js";

const TROUBLES = {
  unreachable: ["The server does not answer", "Is it running, and are you online?"],
  loading: ["The server is still loading", "It answers by itself as soon as it is ready."],
  no_index: ["No documents yet", "Add some under Documents, then ask again."],
  engine_down: ["The language model does not answer", "It may be starting. Search and documents still work."],
  engine_overloaded: ["The language model is busy", "Try again in a moment."],
  engine_disconnect: ["The model stopped in the middle", "What came is kept. It is not the whole answer."],
  engine_silent: ["The model fell silent", "What came is kept. It is not the whole answer."],
  engine_error: ["The model failed", "Ask again; if it stays so, its log knows more."],
  engine_auth: ["The model refuses our key", "Whoever runs this server must set ENGINE_API_KEY."],
  budget_exhausted: ["The budget is used up", "Answers from the cache and search still work."],
  rate_limited: ["Too many questions at once", "Your limit fills up again by itself."],
  ledger_down: ["Costs cannot be counted now", "The server refuses to spend what it cannot count."],
  database_down: ["The log’s database does not answer", "Answers come all the same."],
  deadline: ["The answer took too long", "Ask again, or ask for less."],
  shutting_down: ["The server is stopping", "Ask again once it is back."],
  unauthorized: ["A key is needed", "Ask again and enter one."],
  forbidden: ["Your key may not do this", "Ask whoever gave it to you."],
  prompt_too_long: ["This conversation is too long for the model", "Begin a new one."],
  invalid: ["The server does not take this", ""],
  cut: ["The connection broke off", "What came is kept. It is not the whole answer."],
  stopped: ["Stopped", "What came is kept. It is not the whole answer."],
};

/** {title, advice, detail} of an ApiError, or of anything else that was thrown. */
export function trouble(error) {
  const [title, advice] = TROUBLES[error.code] ?? ["Something went wrong", ""];
  const wait = error.retryAfterS ? ` Try again in ${shownSeconds(error.retryAfterS)}.` : "";
  const told = error.message && error.code !== "unreachable" ? error.message : "";
  return { title, advice: advice + wait, detail: told };
}
