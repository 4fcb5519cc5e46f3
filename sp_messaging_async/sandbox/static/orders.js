// The orders panel: the buyer's language, and which kinds of message an order takes.

import { ask, attempt } from "./control.js";
import { arrange, byId, make, writeOrHide } from "./elements.js";
import { count, kindOf } from "./words.js";

let operations = [];
let known = new Map();

/** Load what was said of orders. */
export async function refresh() {
  if (operations.length === 0) {
    ({ operations } = await ask("ready"));
    byId("kinds").append(...operations.map(makeKind));
  }
  const { orders, total } = await ask("orders");
  known = new Map(orders.map((each) => [each.order, each]));
  byId("orders-empty").hidden = total > 0;
  arrange(byId("known-orders"), [...known].reverse(), makeKnown, updateKnown);
  const left = total - orders.length;
  writeOrHide(byId("orders-capped"), left ? `and ${left.toLocaleString("en")} before these` : null);
}

/** Fill the form with what is so of an order. */
export async function edit(order) {
  const isThere = await attempt(byId("order-problem"), refresh);
  if (!isThere) return;
  const { locale, available } = known.get(order) ?? { locale: null, available: operations };
  byId("order-id").value = order;
  byId("order-locale").value = locale ?? "";
  for (const box of boxes()) box.checked = available.includes(box.value);
}

function boxes() {
  return [...byId("kinds").querySelectorAll("input")];
}

function makeKind(operation) {
  const box = make("input", { type: "checkbox", value: operation, checked: "" });
  return make("label", {}, box, make("span", {}, kindOf(operation)), make("code", { class: "soft" }, operation));
}

function makeKnown({ order }) {
  const edit = make("a", { href: `#/orders/${encodeURIComponent(order)}` }, make("code", {}, order));
  return make("li", {}, edit, make("span"));
}

function updateKnown(item, { locale, available }) {
  const language = locale ?? "the marketplace’s language";
  const lacking = operations.filter((name) => !available.includes(name));
  item.lastElementChild.textContent = ` ${language}; ${takenWithout(lacking)}`;
}

function takenWithout(lacking) {
  if (lacking.length === 0) return "takes every kind of message";
  if (lacking.length === operations.length) return "takes no message";
  return lacking.length <= 3
    ? `takes all but ${lacking.map(kindOf).join(", ")}`
    : `takes ${count(operations.length - lacking.length, "kind")} of message`;
}

async function set(event) {
  event.preventDefault();
  const order = byId("order-id").value.trim();
  const available = boxes().filter((box) => box.checked).map((box) => box.value);
  const body = { locale: byId("order-locale").value.trim() || null, available };
  await attempt(
    byId("order-problem"),
    async () => {
      await ask(`orders/${encodeURIComponent(order)}`, "PUT", body);
      await refresh();
    },
    `Order ${order} is set.`,
  );
}

function check(checked) {
  for (const box of boxes()) box.checked = checked;
}

byId("all-kinds").addEventListener("click", () => check(true));
byId("no-kinds").addEventListener("click", () => check(false));
byId("order-form").addEventListener("submit", set);
