// The usage plans: a meter for each bucket, which refills between two answers of the sandbox.

import { announce, ask, attempt } from "./control.js";
import { Steps, arrange, byId, make, write, writeOrHide } from "./elements.js";
import { clockOf, kindOf } from "./words.js";

const MOST_REFUSALS = 20; // lines that tell of refusals
const FLASH = 1500; // milliseconds
const STEP = 1000; // milliseconds between two pictures, where motion is to be reduced

const calm = matchMedia("(prefers-reduced-motion: reduce)");
let state = null;
let asOf = 0; // when the state came
let refusals = [];
let isShown = false;
let ticking = null;
let selected = null; // the operation whose plan the form was filled with

const meters = new Steps(byId("more-meters"), 60, render);

/** Load the plans and buckets, and tell of what was refused since the last time. */
export async function refresh() {
  const before = state;
  take(await ask("plans"));
  if (before) noteRefusals(before.buckets);
}

/** Forget everything. */
export function forget() {
  state = null;
  refusals = [];
}

/** The view is shown, or no more. */
export function show(shown) {
  isShown = shown;
  if (shown && state) render();
}

function take(answer) {
  state = answer;
  asOf = performance.now();
  const { throttled } = state;
  writeOrHide(byId("plans-badge"), throttled ? `${throttled.toLocaleString("en")} × 429` : null);
  fillOperations();
  if (isShown) render();
}

function noteRefusals(before) {
  const earlier = new Map(before.map((bucket) => [keyOf(bucket), bucket.throttled]));
  for (const bucket of state.buckets) {
    const fresh = bucket.throttled - (earlier.get(keyOf(bucket)) ?? 0);
    if (fresh > 0) noteRefusal(bucket, fresh);
  }
  if (isShown) renderRefusals();
}

function noteRefusal(bucket, fresh) {
  const { operation, seller } = bucket;
  const text = `${operation} of ${seller} refused ${fresh === 1 ? "once" : `${fresh} times`} (429)`;
  const key = `${performance.now()} ${keyOf(bucket)}`;
  refusals = [{ key, at: new Date().toISOString(), text }, ...refusals].slice(0, MOST_REFUSALS);
  announce(text);
  flash(document.querySelector(`#seller-list [data-key="${CSS.escape(keyOf(bucket))}"]`));
  flash(byId("plans-badge"));
}

function flash(element) {
  if (element === null) return;
  element.classList.add("flash");
  clearTimeout(element.flashing);
  element.flashing = setTimeout(() => element.classList.remove("flash"), FLASH);
}

function keyOf({ seller, operation }) {
  return `${seller} ${operation}`;
}

// What is shown

function render() {
  const { buckets, used } = state;
  const sorted = buckets.toSorted((one, other) => (keyOf(one) < keyOf(other) ? -1 : 1));
  const sellers = Map.groupBy(sorted.slice(0, meters.shown), (bucket) => bucket.seller);
  arrange(byId("seller-list"), [...sellers], makeSeller, updateSeller);
  meters.offer(buckets.length, "meters");
  byId("plans-empty").hidden = buckets.length > 0;
  const capped = used > buckets.length;
  writeOrHide(byId("plans-capped"), capped ? `These are the ${buckets.length} used last, of ${used}.` : null);
  renderRefusals();
  tick();
}

function makeSeller([{ seller }]) {
  return make("li", {}, make("h3", {}, seller), make("ul", { class: "plain meters" }));
}

function updateSeller(item, buckets) {
  const pairs = buckets.map((bucket) => [keyOf(bucket), bucket]);
  arrange(item.querySelector("ul"), pairs, makeMeter, updateMeter);
}

function makeMeter({ seller, operation }) {
  const label = `${kindOf(operation)}, tokens of ${seller}`;
  const meter = make("div", { role: "meter", class: "meter", "aria-label": label, "aria-valuemin": "0" });
  meter.append(make("div", { class: "level" }));
  return make(
    "li", {},
    make("div", { class: "head" },
      make("span", {}, kindOf(operation)),
      make("span", { class: "tokens" })),
    meter,
    make("div", { class: "head soft" },
      make("code", {}, operation),
      make("span", { class: "plan" }),
      make("span", { class: "throttled" })),
  );
}

function updateMeter(item, bucket) {
  const { burst, rate, throttled } = bucket;
  item.bucket = bucket;
  item.querySelector(".meter").setAttribute("aria-valuemax", burst);
  write(item.querySelector(".plan"), `${rate.toLocaleString("en")} a second`);
  write(item.querySelector(".throttled"), throttled ? `${throttled.toLocaleString("en")} × 429` : "no 429");
  item.querySelector(".throttled").classList.toggle("is-bad", throttled > 0);
}

/** Draw how full the buckets are now, and go on while any of them fills and somebody looks. */
function tick() {
  clearTimeout(ticking);
  if (!isShown || document.hidden) return;
  const seconds = (performance.now() - asOf) / 1000;
  let isFilling = false;
  for (const item of document.querySelectorAll("#seller-list .meters > li")) {
    isFilling = draw(item, seconds) || isFilling;
  }
  if (isFilling) ticking = setTimeout(() => requestAnimationFrame(tick), calm.matches ? STEP : 60);
}

/** Draw one meter; tells whether it still fills. */
function draw(item, seconds) {
  const { tokens, rate, burst } = item.bucket;
  const now = Math.min(burst, tokens + rate * seconds);
  const meter = item.querySelector(".meter");
  meter.firstElementChild.style.transform = `scaleX(${now / burst})`;
  meter.classList.toggle("is-empty", now < 1);
  const shown = (Math.floor(now * 10) / 10).toLocaleString("en");
  const text = `${shown} of ${burst.toLocaleString("en")} tokens`;
  write(item.querySelector(".tokens"), text);
  meter.setAttribute("aria-valuenow", now.toFixed(2));
  meter.setAttribute("aria-valuetext", text);
  return now < burst;
}

function renderRefusals() {
  byId("no-refusals").hidden = refusals.length > 0;
  const pairs = refusals.map((refusal) => [refusal.key, refusal]);
  arrange(byId("refusals"), pairs, ({ at, text }) =>
    make("li", {}, make("time", { class: "soft", datetime: at }, clockOf(at)), ` ${text}`));
}

// The form

function fillOperations() {
  const select = byId("plan-operation");
  const pairs = state.plans.map((plan) => [plan.operation, plan]);
  arrange(select, pairs, ({ operation }) => make("option", { value: operation }, operation));
  if (selected !== select.value) fillPlan();
}

function fillPlan() {
  selected = byId("plan-operation").value;
  const { rate, burst } = state.plans.find((plan) => plan.operation === selected);
  byId("plan-rate").value = rate;
  byId("plan-burst").value = burst;
}

async function change(event) {
  event.preventDefault();
  const operation = byId("plan-operation").value;
  const plan = { rate: byId("plan-rate").valueAsNumber, burst: byId("plan-burst").valueAsNumber };
  await attempt(
    byId("plan-problem"),
    async () => take(await ask(`plans/${operation}`, "PUT", plan)),
    `${operation} now has ${plan.rate} a second, burst ${plan.burst}. Its buckets are full.`,
  );
}

byId("plan-operation").addEventListener("change", fillPlan);
byId("plan-form").addEventListener("submit", change);
document.addEventListener("visibilitychange", tick);
