// The exchanges: requests and what was answered, newest first.

import { ask, attempt } from "./control.js";
import { Steps, arrange, byId, make, write } from "./elements.js";
import { clockOf, count } from "./words.js";

const KEPT = 500; // as many as the sandbox keeps

let exchanges = []; // newest first
let last = 0;
let isShown = false;
let isStale = true; // something has changed that was not asked for yet

const steps = new Steps(byId("more-exchanges"), 100, render);

/** Load what has come since the last time; while nobody looks, only remember that something did. */
export async function refresh() {
  isStale = true;
  if (!isShown || byId("hold-still").checked) return;
  isStale = false;
  const answer = await ask(`exchanges?since=${last}`);
  const newestGone = answer.total - answer.kept;
  // Somebody else may have asked for the same meanwhile.
  const fresh = answer.exchanges.filter((exchange) => exchange.number > last);
  exchanges = [...fresh.reverse(), ...exchanges]
    .filter((exchange) => exchange.number > newestGone)
    .slice(0, KEPT);
  last = answer.total;
  render();
}

/** Forget everything. */
export function forget() {
  exchanges = [];
  last = 0;
}

/** The view is shown, or no more. */
export function show(shown) {
  isShown = shown;
  if (shown && isStale) catchUp();
}

async function catchUp() {
  await attempt(byId("exchanges-problem"), refresh);
}

/** Whether an exchange failed: it was refused, or not answered at all. */
function isFailure({ status }) {
  return status === null || status >= 300;
}

function render() {
  const isNarrowed = byId("errors-only").checked;
  const matching = isNarrowed ? exchanges.filter(isFailure) : exchanges;
  const pairs = matching.slice(0, steps.shown).map((exchange) => [String(exchange.number), exchange]);
  arrange(byId("exchange-list"), pairs, makeExchange);
  steps.offer(matching.length, "exchanges");
  byId("exchanges-empty").hidden = matching.length > 0;
  const failed = `Nothing failed in ${count(exchanges.length, "exchange")}.`;
  write(byId("exchanges-empty"), isNarrowed ? failed : "Nothing has been asked yet.");
}

function makeExchange(exchange) {
  const { at, verb, path, operation, seller, status, milliseconds } = exchange;
  const summary = make(
    "summary", {},
    make("time", { class: "soft", datetime: at, title: at }, clockOf(at)),
    make("span", { class: `status ${isFailure(exchange) ? "is-bad" : "is-good"}` }, statusOf(status)),
    make("span", { class: "path" }, make("strong", {}, verb), " ", make("code", {}, path)),
    make("span", {}, operation),
    make("span", { class: "soft" }, seller ?? "no seller"),
    make("span", { class: "soft took" }, `${milliseconds.toFixed(milliseconds < 1 ? 2 : 0)} ms`),
  );
  const details = make("details", {}, summary);
  // Most are never opened, so what is in them is made when they are.
  details.addEventListener("toggle", () => details.append(...bodiesOf(exchange)), { once: true });
  return make("li", {}, details);
}

function statusOf(status) {
  return status === null ? "no answer" : String(status);
}

function bodiesOf({ request, answer, status }) {
  const empty = status === null ? "No answer was sent." : "The answer has no body.";
  return [
    make("h3", {}, "Request"),
    bodyOf(request, "The request has no body."),
    make("h3", {}, "Answer"),
    bodyOf(answer, empty),
  ];
}

function bodyOf(text, empty) {
  if (!text) return make("p", { class: "soft" }, empty);
  return make("pre", { tabindex: "0" }, make("code", {}, pretty(text)));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

byId("errors-only").addEventListener("change", () => {
  steps.reset();
  render();
});
byId("hold-still").addEventListener("change", () => isStale && catchUp());
