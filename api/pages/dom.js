// Making elements. Text becomes text nodes here and nowhere HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `props` are properties, or attributes where the name has a dash or none exists. */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function button(label, onclick, props = {}) {
  return el("button", { type: "button", onclick, ...props }, label);
}

/** Say it to screen readers once, without showing it. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** Show a modal dialog of `children`; resolves with the value of the button that closed it. */
export function ask(children, { label }) {
  const dialog = el("dialog", { ariaLabel: label }, el("form", { method: "dialog" }, ...children));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      dialog.remove();
      resolve(dialog.returnValue);
    };
  });
}

function fill(made, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") made.className = value;
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
