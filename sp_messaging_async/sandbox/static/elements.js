// Elements of the page. Whatever is shown becomes text here, never markup.

/** The element of the page with an id. */
export const byId = (id) => document.getElementById(id);

/** A new element. Children that are no elements become text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Write a text, if it is not what stands there: screen readers hear of every change. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show an element with a text, or hide it where there is none. */
export function writeOrHide(element, text) {
  element.hidden = !text;
  write(element, text ?? "");
}

/**
 * Let the children of a parent be those of [key, item] pairs, in order. An element is made once
 * for each key and kept, and with it the focus, what is open and what is selected.
 */
export function arrange(parent, pairs, create, update = () => {}) {
  const focused = document.activeElement;
  const kept = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = new Set(pairs.map(([key]) => key));
  for (const [key, child] of kept) if (!wanted.has(key)) child.remove();
  let place = parent.firstElementChild;
  for (const [key, item] of pairs) {
    const element = kept.get(key) ?? create(item);
    element.dataset.key = key;
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  // An element that is moved loses the focus.
  if (parent.contains(focused) && focused !== document.activeElement) {
    focused.focus({ preventScroll: true });
  }
}

/** A list that is shown in steps, so that a long one costs no more than what is looked at. */
export class Steps {
  constructor(button, size, render) {
    this.shown = size;
    this.size = size;
    this.button = button;
    button.addEventListener("click", () => {
      this.shown += size;
      render();
    });
  }

  /** Begin again with the first step. */
  reset() {
    this.shown = this.size;
  }

  /** Offer what is left of so many. */
  offer(total, words) {
    const left = total - this.shown;
    writeOrHide(this.button, left > 0 ? `Show more (${left.toLocaleString("en")} ${words})` : null);
  }
}

/** Ask before something is done that cannot be undone. */
export function confirmed(question) {
  const dialog = byId("confirm");
  write(byId("confirm-question"), question);
  dialog.showModal();
  return new Promise((resolve) => {
    const settle = (answer) => () => {
      controller.abort();
      dialog.close();
      resolve(answer);
    };
    const controller = new AbortController();
    const { signal } = controller;
    byId("confirm-yes").addEventListener("click", settle(true), { signal });
    byId("confirm-no").addEventListener("click", settle(false), { signal });
    dialog.addEventListener("cancel", settle(false), { signal });
  });
}
