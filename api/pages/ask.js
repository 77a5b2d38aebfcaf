// The view that asks: the question box, the conversation, examples and what was asked before.

import { answer } from "./answering.js";
import { getJson } from "./api.js";
import { ask as dialog, announce, button, el } from "./dom.js";
import { clear, keep, past } from "./history.js";
import { trouble } from "./troubles.js";
import { Turn } from "./turn.js";

const SHORTEST = 3;
const LONGEST = 512;
const HISTORY_TURNS = 10;
const LONGEST_MESSAGE = 8000;
const RETRY_S = 5;
const KEYS = "Enter asks · Shift+Enter new line · / comes here";
const PROMISE = "Answers come from your documents, with the sentences they rest on.";

const turns = [];
let underWay = null;
let again = null;

const box = el("textarea", {
  id: "question", name: "question", rows: 1, maxLength: LONGEST, autocomplete: "off",
  placeholder: "Ask your documents", "aria-describedby": "keys",
});
const submit = el("button", { class: "main" }, "Ask");
const stop = button("Stop", () => underWay?.abort(), { hidden: true });
const fresh = button("New conversation", begin, { class: "quiet", hidden: true });
const earlier = button("Earlier answers", showPast, { class: "quiet" });
const conversation = el("div", { class: "conversation" });
const examples = el("ul", { class: "examples", ariaLabel: "Questions to begin with" });
const about = el("p", { role: "status" }, PROMISE);
const intro = el(
  "div",
  { class: "intro" },
  el("h1", {}, "What would you like to know?"),
  about,
);

export function mountAsk(section) {
  const composer = el(
    "form",
    { class: "composer", onsubmit: submitted },
    el("label", { class: "hidden", htmlFor: "question" }, "Question"),
    box,
    el("div", { class: "row" }, el("span", { id: "keys", class: "where" }, KEYS), fresh, earlier, stop, submit),
  );
  section.append(intro, conversation, composer, examples);
  box.oninput = grow;
  box.onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    composer.requestSubmit();
  };
  earlier.hidden = past().length === 0;
}

export function focusBox() {
  box.focus();
}

export function stopAnswer() {
  underWay?.abort();
}

/** Shown again: the examples follow what is indexed by now. While the server loads, ask again. */
export async function showAsk() {
  clearTimeout(again);
  if (turns.length > 0) return;
  try {
    const { questions, passages } = await getJson("page/examples");
    about.replaceChildren(...(passages === 0 ? nothingYet() : [PROMISE]));
    examples.replaceChildren(...questions.map(example));
  } catch (error) {
    const { title } = trouble(error);
    about.textContent = `${title}.`;
    if (error.retryable) again = setTimeout(showAsk, (error.retryAfterS ?? RETRY_S) * 1000);
  }
}

export function hideAsk() {
  clearTimeout(again);
}

const example = (question) => el("li", {}, button(question, () => ask(question)));

function nothingYet() {
  return ["There are no documents yet. ", el("a", { href: "#documents" }, "Add some"), " to have something to ask."];
}

function submitted(event) {
  event.preventDefault();
  const question = box.value.trim();
  if (underWay || question.length < SHORTEST) return;
  box.value = "";
  grow();
  ask(question);
}

async function ask(question) {
  if (underWay) return;
  const history = messages();
  const turn = add(question);
  underWay = new AbortController();
  setAsking(true);
  turn.element.scrollIntoView({ block: "start", behavior: "smooth" });
  announce("Answering.");
  const body = history.length > 0 ? { query: question, history } : { query: question };
  try {
    if (await answer(turn, body, underWay.signal)) keep(turn);
  } finally {
    underWay = null;
    setAsking(false);
  }
  earlier.hidden = past().length === 0;
}

function add(question) {
  const turn = new Turn(question, { onAgain: ask });
  turns.push(turn);
  conversation.append(turn.element);
  intro.hidden = examples.hidden = true;
  fresh.hidden = false;
  return turn;
}

/** Whole turns as earlier messages, as many as the server takes. */
function messages() {
  const whole = turns.filter(({ done, answer }) => done && answer.trim() !== "").slice(-HISTORY_TURNS);
  return whole.flatMap(({ question, answer }) => [
    { role: "user", content: question },
    { role: "assistant", content: answer.slice(0, LONGEST_MESSAGE) },
  ]);
}

function begin() {
  underWay?.abort();
  turns.length = 0;
  conversation.replaceChildren();
  intro.hidden = examples.hidden = false;
  fresh.hidden = true;
  showAsk();
  focusBox();
}

function setAsking(isAsking) {
  stop.hidden = !isAsking;
  submit.hidden = isAsking;
}

/** As high as its text, up to the height that the style sheet allows. */
function grow() {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
}

async function showPast() {
  const kept = past();
  const rows = kept.map(({ question, at }, row) => {
    const time = el("time", {}, new Date(at).toLocaleString());
    return el("li", {}, el("button", { value: String(row), class: "line" }, question, time));
  });
  const chosen = await dialog(
    [
      el("h2", {}, "Earlier answers"),
      el("p", { class: "where" }, "Kept in this browser alone."),
      el("ul", { class: "past" }, ...rows),
      el(
        "div",
        { class: "row end" },
        el("button", { value: "clear", class: "quiet" }, "Clear all"),
        el("button", { value: "" }, "Close"),
      ),
    ],
    { label: "Earlier answers" },
  );
  if (chosen === "clear") {
    clear();
    earlier.hidden = true;
  } else if (kept[chosen]) {
    replay(kept[chosen]);
  }
}

function replay({ question, answer, sources, citations, done }) {
  const turn = add(question);
  turn.take({ event: "sources", data: { sources } });
  turn.take({ event: "token", data: { token: answer } });
  for (const data of citations ?? []) turn.take({ event: "citation", data });
  turn.finish(done);
  turn.element.scrollIntoView({ block: "start" });
}
