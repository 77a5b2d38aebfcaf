// One question and its answer on the page: text as it comes, sources, facts, feedback.

import { postJson } from "./api.js";
import { announce, button, el } from "./dom.js";
import { factsLine } from "./facts.js";
import { mark } from "./marking.js";
import { rendered } from "./markdown.js";
import { sourceList } from "./sources.js";
import { trouble } from "./troubles.js";

const REDRAW_MS = 80;
/** How often an answer under way is drawn: often enough to read along, cheap enough for phones. */

export class Turn {
  answer = "";
  sources = [];
  citations = [];
  done = null;

  constructor(question, { onAgain }) {
    this.question = question;
    this.onAgain = onAgain;
    this.list = sourceList();
    this.text = el("div", { class: "answer", ariaBusy: "true" });
    this.note = el("p", { class: "working" }, "Looking through the documents …");
    this.foot = el("div", { class: "foot" });
    const column = el("div", { class: "column" }, this.text, this.note, this.foot);
    this.element = el(
      "article",
      { class: "turn", ariaLabel: question },
      el("h2", { class: "question", tabIndex: -1 }, question),
      el("div", { class: "pair" }, column, this.list.element),
    );
    this.#link();
  }

  /** Take one event of the answer's stream. */
  take({ event, data }) {
    if (event === "sources") {
      this.sources = data.sources;
      this.list.set(data.sources);
      this.say("Reading the sources …");
    } else if (event === "token") {
      this.answer += data.token;
      this.#later();
    } else if (event === "citation") {
      this.citations.push(data);
      this.#later();
    } else if (event === "done") {
      this.finish(data);
    }
  }

  say(text) {
    if (this.note.textContent !== text) this.note.textContent = text;
    this.note.hidden = false;
  }

  finish(done) {
    this.done = done;
    this.#end();
    if (done.standalone_query) this.foot.append(el("p", { class: "where" }, `Understood as: ${done.standalone_query}`));
    if (this.citations.some(({ kind }) => kind === "unsupported")) {
      const dotted = el("span", { class: "unsupported" }, "Dotted");
      this.foot.append(el("p", { class: "where" }, dotted, ": not found in the sources."));
    }
    this.foot.append(factsLine(done), this.#actions(done));
    const count = this.sources.length;
    announce(`Answer: ${this.text.textContent} ${count} ${count === 1 ? "source" : "sources"}.`);
  }

  /** End without `done`: say why, keep what came, offer to ask again. */
  fail(error) {
    this.#end();
    const { title, advice, detail } = trouble(error);
    this.foot.append(
      el(
        "div",
        { class: "notice", role: error.code === "stopped" ? "status" : "alert" },
        el("strong", {}, title),
        advice ? el("p", {}, this.answer === "" && error.code === "stopped" ? "" : advice) : null,
        detail ? el("p", { class: "where" }, detail) : null,
        button("Ask again", () => this.onAgain(this.question)),
      ),
    );
  }

  #end() {
    clearTimeout(this.timer);
    this.timer = null;
    this.#draw();
    this.note.hidden = true;
    this.text.ariaBusy = "false";
    this.element.classList.add("ended");
  }

  #later() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.#draw();
      this.note.hidden = true;
    }, REDRAW_MS);
  }

  #draw() {
    const drawn = rendered(this.answer);
    mark(drawn, this.answer, this.citations, new Set(this.sources.map(({ n }) => n)));
    this.text.replaceChildren(drawn);
    if (this.citations.length > 0) this.list.highlight(this.citations);
  }

  #link() {
    const sentenceOf = (event) => event.target.closest("[data-sentence]")?.dataset.sentence ?? null;
    for (const name of ["mouseover", "focusin"]) {
      this.text.addEventListener(name, (event) => this.#light(sentenceOf(event)));
    }
    for (const name of ["mouseleave", "focusout"]) this.text.addEventListener(name, () => this.#light(null));
    this.text.addEventListener("click", ({ target }) => {
      if (target.matches(".ref")) this.list.open(Number(target.dataset.source));
    });
    this.list.element.addEventListener("mouseover", ({ target }) => {
      this.#light(target.closest("mark")?.dataset.sentences.split(" ")[0] ?? null);
    });
    this.list.element.addEventListener("mouseleave", () => this.#light(null));
  }

  #light(index) {
    if (index === this.lit) return;
    this.lit = index;
    this.list.light(index);
    for (const span of this.text.querySelectorAll("[data-sentence]")) {
      span.classList.toggle("on", span.dataset.sentence === index);
    }
  }

  #actions(done) {
    const said = el("span", { class: "where", role: "status" });
    const rate = (rating, label) => button(label, () => this.#rate(rating, done, row, said), { "data-rating": rating });
    const copy = button("Copy", async () => {
      await navigator.clipboard.writeText(this.answer);
      said.textContent = "Copied.";
    });
    // Only pages from localhost or https may use the clipboard.
    copy.hidden = !navigator.clipboard;
    const row = el("div", { class: "row actions" }, rate("up", "Helpful"), rate("down", "Not helpful"), copy, said);
    return row;
  }

  async #rate(rating, done, row, said) {
    const body = { request_id: done.request_id, rating };
    if (done.cache.entry_id) body.entry_id = done.cache.entry_id;
    try {
      const { evicted } = await (await postJson("feedback", body)).json();
      for (const one of row.querySelectorAll("[data-rating]")) one.ariaPressed = String(one.dataset.rating === rating);
      said.textContent = evicted ? "Thank you. This answer is no longer kept." : "Thank you.";
    } catch (error) {
      said.textContent = trouble(error).title;
    }
  }
}
