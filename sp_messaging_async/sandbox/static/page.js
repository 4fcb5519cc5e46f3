// The page of the local Amazon: which view is shown, and what keeps all of them up to date.

import { Refused, Unreachable, ask } from "./control.js";
import { byId, write } from "./elements.js";
import * as exchanges from "./exchanges.js";
import * as faults from "./faults.js";
import * as inbox from "./inbox.js";
import * as orders from "./orders.js";
import * as plans from "./plans.js";

const PAUSE = 150; // milliseconds between two rounds of questions
const CONNECTION = { live: "Live", lost: "Connection lost. Trying again …" };
const AGAIN = 2000; // milliseconds until a connection is tried anew

// By the names that events have for what has changed.
const REFRESH = {
  messages: inbox.refresh,
  plans: plans.refresh,
  exchanges: exchanges.refresh,
  faults: faults.refresh,
  orders: orders.refresh,
};

// What keeps up to date

const changed = new Set(); // what has changed and was not asked for yet
let isAsking = false;
let started = null; // when the sandbox began, which tells it from one before on the same port

function listen() {
  const events = new EventSource("/_sandbox/events");
  events.addEventListener("open", () => catchUp());
  events.addEventListener("message", ({ data }) => refresh(JSON.parse(data)));
  events.addEventListener("error", () => {
    showConnection("lost");
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN);
  });
}

/** After a connection, anything may have changed, and it may be another sandbox. */
async function catchUp() {
  try {
    const ready = await ask("ready");
    if (ready.started !== started) {
      started = ready.started;
      inbox.forget();
      plans.forget();
      exchanges.forget();
    }
    inbox.point(ready.environment);
    showConnection("live");
    await refresh(Object.keys(REFRESH));
  } catch (error) {
    showFailure(error);
  }
}

/** Ask for what has changed, in rounds; a tab that nobody sees waits until somebody does. */
async function refresh(kinds) {
  for (const kind of kinds) changed.add(kind);
  if (isAsking) return;
  isAsking = true;
  try {
    while (changed.size > 0 && !document.hidden && (await askOnce())) await pause(PAUSE);
  } finally {
    isAsking = false;
  }
}

/** One round. Tells whether it went well; if not, the next event or connection asks again. */
async function askOnce() {
  const kinds = [...changed];
  changed.clear();
  try {
    await Promise.all(kinds.map((kind) => REFRESH[kind]?.()));
    return true;
  } catch (error) {
    for (const kind of kinds) changed.add(kind);
    showFailure(error);
    return false;
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function showConnection(state, text = CONNECTION[state]) {
  byId("connection").dataset.state = state;
  write(byId("connection"), text);
}

function showFailure(error) {
  if (error instanceof Unreachable) showConnection("lost");
  else if (error instanceof Refused) showConnection("lost", error.message);
  else throw error;
}

// Which view is shown

const VIEWS = {
  inbox: (shown, order) => shown && inbox.show(order),
  plans: plans.show,
  exchanges: exchanges.show,
  faults: () => {},
  orders: (shown, order) => shown && order !== null && orders.edit(order),
};

/** The view and the order that the address names. */
function placeOf(hash) {
  const [, view, order] = hash.split("/");
  return [view in VIEWS ? view : "inbox", order ? decoded(order) : null];
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function go() {
  const [view, order] = placeOf(location.hash);
  for (const [name, show] of Object.entries(VIEWS)) {
    byId(name).hidden = name !== view;
    show(name === view, order);
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = view === "inbox" && order !== null ? byId("conversation-heading") : byId(`${view}-heading`);
  document.title = `${heading.textContent} – local Amazon`;
  return heading;
}

addEventListener("hashchange", () => {
  const heading = go();
  // Who has chosen an order from the list goes on to read, and comes back to the list.
  heading.focus({ preventScroll: true });
  scrollTo(0, 0);
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the view
  byId("main").focus();
});
document.addEventListener("visibilitychange", () => refresh([]));
go();
listen();
