// The view of the documents: list, filter, upload by button or drop, delete.

import { getJson, send } from "./api.js";
import { announce, ask, button, el } from "./dom.js";
import { trouble } from "./troubles.js";
import { upload } from "./upload.js";

const PAGE = 100;
const TYPING_MS = 250;

const filter = el("input", { type: "search", id: "filter", placeholder: "Filter by id or title", maxLength: 256 });
const picker = el("input", { type: "file", multiple: true, hidden: true, id: "files" });
const pick = button("Add files", () => picker.click(), { class: "main" });
const jobs = el("ul", { class: "jobs", ariaLabel: "Uploads" });
const rows = el("ul", { class: "documents", ariaLabel: "Documents" });
const state = el("p", { class: "where", role: "status" });
const more = button("Show more", () => load(next), { hidden: true });
let next = null;
let latest = 0;

export function mountDocuments(section) {
  const drop = el(
    "div",
    { class: "drop" },
    el("p", {}, "Drop files here, or "),
    pick,
    picker,
    el("p", { class: "where" }, "PDF, Word, HTML, Markdown, text, CSV, notebooks, JSON lines"),
  );
  section.append(
    el("h1", {}, "Documents"),
    drop,
    jobs,
    el("div", { class: "row" }, el("label", { class: "hidden", htmlFor: "filter" }, "Filter"), filter),
    state,
    rows,
    more,
  );
  picker.onchange = () => hand(picker.files);
  drop.ondragover = (event) => {
    event.preventDefault();
    drop.classList.add("over");
  };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    hand(event.dataTransfer.files);
  };
  let typing = null;
  filter.oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(load, TYPING_MS);
  };
}

export function showDocuments() {
  load();
}

export function hideDocuments() {
  latest++;
}

async function hand(files) {
  if (files.length === 0) return;
  const chosen = [...files];
  picker.value = "";
  await upload(chosen, jobs);
  await load();
}

/** List from the beginning, or `after` an id; an answer that was overtaken is dropped. */
async function load(after = null) {
  const mine = ++latest;
  const query = new URLSearchParams({ limit: PAGE, q: filter.value.trim() });
  if (after !== null) query.set("after", after);
  try {
    const page = await getJson(`documents?${query}`);
    if (mine !== latest) return;
    const made = page.documents.map(row);
    if (after === null) rows.replaceChildren(...made);
    else rows.append(...made);
    next = page.next;
    more.hidden = next === null;
    state.textContent = summary(rows.children.length);
  } catch (error) {
    if (mine !== latest) return;
    const { title, advice } = trouble(error);
    rows.replaceChildren();
    more.hidden = true;
    state.textContent = error.status === 404 ? "This server does not list documents." : `${title}. ${advice}`;
  }
}

function summary(count) {
  if (count > 0) return `${count}${next === null ? "" : " and more"} ${count === 1 ? "document" : "documents"}`;
  return filter.value.trim() ? "Nothing matches." : "No documents yet. Drop some above.";
}

function row(document) {
  const { doc_id, title, chars, updated_at, origin, state: indexed } = document;
  const facts = [
    `${chars.toLocaleString()} characters`,
    new Date(updated_at).toLocaleDateString(),
    origin === "paths" ? "from the server’s files" : "uploaded",
  ];
  const made = el(
    "li",
    {},
    el("div", {}, el("strong", {}, title || doc_id), el("p", { class: "where" }, `${doc_id} · ${facts.join(" · ")}`)),
    el("span", { class: `state ${indexed}` }, indexed),
    button("Delete", () => remove(document, made), { class: "quiet", ariaLabel: `Delete ${title || doc_id}` }),
  );
  return made;
}

async function remove({ doc_id, title }, made) {
  const answered = await ask(
    [
      el("h2", {}, "Delete this document?"),
      el("p", {}, `${title || doc_id} will be gone from search, answers and the cache at once.`),
      el(
        "div",
        { class: "row end" },
        el("button", { value: "" }, "Keep it"),
        el("button", { value: "delete", class: "danger" }, "Delete"),
      ),
    ],
    { label: "Delete this document?" },
  );
  if (answered !== "delete") return;
  try {
    await send(`documents/${encodeURIComponent(doc_id)}`, { method: "DELETE" });
    made.remove();
    state.textContent = summary(rows.children.length);
    announce(`${title || doc_id} is deleted.`);
    filter.focus();
  } catch (error) {
    const { title: what, detail } = trouble(error);
    state.textContent = [what, detail].filter(Boolean).join(": ");
  }
}
