// The API key: asked for when the server wants one, kept for this tab, or longer where wished.

import { ask, button, el } from "./dom.js";

const NAME = "ragrelay.key";
let asking = null;

export function currentKey() {
  return read(sessionStorage) ?? read(localStorage);
}

/** Ask for a key; true if one was given. Several callers at once see one dialog. */
export function askForKey(reason) {
  asking ??= show(reason).finally(() => {
    asking = null;
  });
  return asking;
}

async function show(reason) {
  const field = el("input", { type: "password", autocomplete: "off", required: true, id: "key-field" });
  const remember = el("input", { type: "checkbox" });
  const close = (label, value) =>
    button(label, ({ target }) => target.closest("dialog").close(value), { class: "quiet" });
  const forget = currentKey() ? close("Forget the key", "forget") : null;
  const answered = await ask(
    [
      el("h2", {}, "API key"),
      el("p", {}, reason),
      el("label", { htmlFor: "key-field" }, "Key"),
      field,
      el("label", { class: "check" }, remember, "Remember it in this browser"),
      el(
        "div",
        { class: "row end" },
        forget,
        close("Cancel", "cancel"),
        el("button", { value: "given", class: "main" }, "Use this key"),
      ),
    ],
    { label: "API key" },
  );
  if (answered === "forget") forgetKey();
  const key = field.value.trim();
  if (answered !== "given" || key === "") return false;
  forgetKey();
  write(remember.checked ? localStorage : sessionStorage, key);
  return true;
}

function forgetKey() {
  for (const storage of [sessionStorage, localStorage]) write(storage, null);
}

function read(storage) {
  try {
    return storage.getItem(NAME);
  } catch {
    return null;
  }
}

function write(storage, key) {
  try {
    if (key === null) storage.removeItem(NAME);
    else storage.setItem(NAME, key);
  } catch {
    // Storage is refused or full.
  }
}
