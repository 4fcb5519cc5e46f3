// The inbox: orders on the left, and what the buyer of one of them got on the right.

import { announce, ask, attempt } from "./control.js";
import { Steps, arrange, byId, confirmed, make, write, writeOrHide } from "./elements.js";
import { count, dayOf, kindOf, sizeOf, timeOf } from "./words.js";

const AT_FIRST = 10_000; // messages that are loaded without being asked for
const ALL = 999_999_999_999_999; // a number that no message has, which asks for the state alone

let orders = new Map(); // by id, the one with the newest message last
let messages = []; // all that are loaded, oldest first
let last = 0; // the number of the newest message that is loaded
let state = null; // what the sandbox says of its inbox as a whole
let open = null; // the id of the order whose conversation is shown
let query = "";
let found = null; // the ids of the orders that match the query; null without one
let beginnings = 0; // what was asked for before the last of them is not taken in

const list = new Steps(byId("more-orders"), 100, renderList);
const conversation = new Steps(byId("earlier"), 50, () => renderConversation(false));

/** Load what has come since the last time. */
export async function refresh() {
  const before = last;
  const first = state === null;
  if (first) await begin(AT_FIRST);
  const ours = beginnings;
  for (let more = true; more; ) {
    const answer = await ask(`messages?since=${last}`);
    if (ours !== beginnings) return;
    // Somebody else may have asked for the same meanwhile.
    answer.messages.filter((message) => message.number > last).forEach(take);
    more = answer.more;
    state = answer;
    forgetGone();
    render();
  }
  if (!first) tell(messages.filter((message) => message.number > before));
}

/** Forget everything; the next refresh begins anew. */
export function forget() {
  beginnings += 1;
  state = null;
  empty();
}

/** Print the variables that lead a client here. */
export function point(environment) {
  const lines = Object.entries(environment).map(([name, value]) => `export ${name}='${value}'`);
  write(byId("pointers"), lines.join("\n"));
}

/** Show an order's conversation, or none. */
export function show(order) {
  const changed = open !== order;
  open = order;
  if (changed) conversation.reset();
  renderList();
  renderConversation(changed);
}

function empty() {
  orders = new Map();
  messages = [];
  last = 0;
  if (found) found = new Set();
}

/** Begin with the newest messages, so many at most. */
async function begin(most) {
  state = await ask(`messages?since=${ALL}`);
  beginnings += 1;
  empty();
  last = Math.max(state.total - state.kept, state.total - most);
}

function take(message) {
  const id = message.order;
  const order = orders.get(id) ?? { id, messages: [] };
  order.messages.push(message);
  messages.push(message);
  last = message.number;
  message.sought = soughtIn(message);
  if (found && message.sought.includes(query)) found.add(id);
  orders.delete(id);
  orders.set(id, order);
}

/** What a search looks at. */
function soughtIn(message) {
  const { order, operation, text, locale, marketplace, seller, files } = message;
  const names = files.map((file) => file.name);
  const all = [order, operation, kindOf(operation), text, locale, marketplace, seller, ...names];
  return all.join("\n").toLowerCase();
}

/** Forget what the sandbox has forgotten: what made room, or was cleared. */
function forgetGone() {
  const newestGone = state.total - state.kept;
  const held = messages.findIndex((message) => message.number > newestGone);
  const gone = messages.splice(0, held === -1 ? messages.length : held);
  for (const message of gone) {
    const order = orders.get(message.order);
    order.messages.shift();
    if (order.messages.length === 0) orders.delete(order.id);
  }
  last = Math.max(last, newestGone);
}

function tell(fresh) {
  if (fresh.length === 0) return;
  const { operation, order } = fresh.at(-1);
  const one = `New message for order ${order}: ${kindOf(operation)}`;
  announce(fresh.length === 1 ? one : count(fresh.length, "new message"));
}

function search() {
  query = byId("search").value.trim().toLowerCase();
  const matching = messages.filter((message) => message.sought.includes(query));
  found = query ? new Set(matching.map((message) => message.order)) : null;
  list.reset();
  renderList();
}

async function clear() {
  if (!(await confirmed(`Clear all ${count(state?.kept ?? 0, "message")}?`))) return;
  await attempt(byId("inbox-problem"), async () => {
    await ask("messages", "DELETE");
    await refresh();
  });
}

async function loadAll() {
  await attempt(byId("inbox-problem"), async () => {
    await begin(Infinity);
    await refresh();
  });
}

// What is shown

function render() {
  writeOrHide(byId("inbox-badge"), state.kept ? state.kept.toLocaleString("en") : null);
  byId("clear-messages").disabled = state.kept === 0;
  renderNotices();
  renderList();
  renderConversation(false);
}

function renderNotices() {
  const { dropped, limit, kept } = state;
  const made = `${count(dropped, "older message")} made room for newer ones:`;
  writeOrHide(byId("dropped"), dropped ? `${made} at most ${limit.toLocaleString("en")} are held.` : null);
  const unloaded = kept - messages.length;
  byId("unloaded").hidden = unloaded <= 0 || last < state.total;
  write(byId("unloaded").firstElementChild, `${count(unloaded, "older message")} not loaded.`);
  byId("inbox-empty").hidden = kept > 0;
}

function renderList() {
  const ids = found ? [...orders.keys()].filter((id) => found.has(id)) : [...orders.keys()];
  const shown = ids.reverse().slice(0, list.shown);
  const pairs = shown.map((id) => [id, orders.get(id)]);
  arrange(byId("order-list"), pairs, makeOrder, updateOrder);
  list.offer(ids.length, "orders");
  write(byId("inbox-count"), countOf(ids.length));
}

function countOf(shown) {
  if (found) return `${count(shown, "order")} of ${orders.size.toLocaleString("en")} found`;
  return orders.size ? `${count(messages.length, "message")} for ${count(shown, "order")}` : "";
}

function makeOrder(order) {
  return make(
    "li", {},
    make(
      "a", { href: `#/inbox/${encodeURIComponent(order.id)}` },
      make("span", { class: "head" },
        make("code", {}, order.id),
        make("span", { class: "badge number" }),
        make("time", { class: "soft" })),
      make("span", { class: "kind" }),
      make("span", { class: "excerpt soft", dir: "auto" }),
      make("span", { class: "tags" },
        make("span", { class: "tag place" }),
        make("span", { class: "tag locale" }),
        make("span", { class: "tag seller" })),
    ),
  );
}

function updateOrder(item, order) {
  const newest = order.messages.at(-1);
  const link = item.firstElementChild;
  if (order.id === open) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
  if (item.dataset.newest === `${newest.number} ${order.messages.length}`) return;
  item.dataset.newest = `${newest.number} ${order.messages.length}`;
  const put = (name, text) => write(item.querySelector(name), text);
  put(".number", order.messages.length.toLocaleString("en"));
  item.querySelector(".number").setAttribute("aria-label", count(order.messages.length, "message"));
  put("time", timeOf(newest.at));
  put(".kind", kindOf(newest.operation));
  put(".excerpt", (newest.text ?? newest.files.map((file) => file.name).join(", ")).slice(0, 200));
  put(".place", newest.marketplace);
  put(".locale", newest.locale);
  put(".seller", newest.seller);
}

function renderConversation(isNew) {
  const order = orders.get(open);
  byId("inbox").dataset.step = open === null ? "list" : "conversation";
  byId("conversation").hidden = open === null;
  byId("nothing-open").hidden = open !== null;
  if (open === null) return;
  const wasAtEnd = isAtEnd(byId("conversation"));
  const held = order?.messages ?? [];
  write(byId("conversation-heading"), `Order ${open}`);
  write(byId("conversation-about"), aboutOf(held));
  byId("conversation-settings").href = `#/orders/${encodeURIComponent(open)}`;
  const pairs = held.slice(-conversation.shown).map((message) => [String(message.number), message]);
  arrange(byId("message-list"), pairs, makeMessage);
  const earlier = held.length - pairs.length;
  writeOrHide(byId("earlier"), earlier ? `Show earlier ones (${earlier.toLocaleString("en")})` : null);
  if (isNew || wasAtEnd) byId("conversation").scrollTop = byId("conversation").scrollHeight;
}

function isAtEnd(pane) {
  return pane.scrollHeight - pane.scrollTop - pane.clientHeight < 40;
}

function aboutOf(held) {
  if (held.length === 0) return "There are no messages for this order.";
  const all = (name) => [...new Set(held.map((message) => message[name]))].join(", ");
  return `${count(held.length, "message")} · ${all("marketplace")} · ${all("seller")}`;
}

function makeMessage(message) {
  return make(
    "li", { class: "message" },
    make("div", { class: "head" },
      make("h3", {}, kindOf(message.operation)),
      make("time", { class: "soft", datetime: message.at }, timeOf(message.at))),
    make("p", { class: "tags" },
      make("code", {}, message.operation),
      make("span", { class: "tag", title: "The buyer’s language" }, message.locale),
      make("span", { class: "tag", title: "The seller’s account" }, message.seller)),
    textOf(message),
    warrantyOf(message),
    message.files.length ? make("ul", { class: "files plain" }, ...message.files.map(makeFile)) : null,
  );
}

function textOf({ text, locale, operation }) {
  if (text !== null) return make("p", { class: "text", dir: "auto", lang: locale }, text);
  const words = operation === "createNegativeFeedbackRemoval"
    ? "Amazon asks in its own words; the seller writes nothing."
    : "There is no text in this kind of message.";
  return make("p", { class: "soft" }, words);
}

function warrantyOf({ coverage_start_date: start, coverage_end_date: end }) {
  if (start === null && end === null) return null;
  const day = (iso) => (iso === null ? "…" : make("time", { datetime: iso, title: iso }, dayOf(iso)));
  return make("p", { class: "warranty" }, "Covered from ", day(start), " to ", day(end));
}

function makeFile(file) {
  const name = make("bdi", {}, file.name);
  if (file.size === null) {
    return make("li", {}, name, make("span", { class: "soft" }, " never uploaded"));
  }
  const size = make("span", { class: "soft" }, ` ${sizeOf(file.size)}`);
  if (!file.image) return make("li", {}, make("a", { href: file.url, download: "" }, name), size);
  const image = make("img", { src: file.url, alt: "", loading: "lazy" });
  image.addEventListener("error", () => image.remove());
  const attributes = { href: file.url, target: "_blank", rel: "noopener" };
  return make("li", { class: "image" }, make("a", attributes, image, name), size);
}

byId("search").addEventListener("input", search);
byId("clear-messages").addEventListener("click", clear);
byId("unloaded").querySelector("button").addEventListener("click", loadAll);
