// The fault panel: what will go wrong, and what shall.

import { ask, attempt } from "./control.js";
import { arrange, byId, make, write, writeOrHide } from "./elements.js";
import { groupOf, kindOf, nameOf, sentenceOf } from "./words.js";

let targets = [];

/** Load what is going to fail. */
export async function refresh() {
  if (targets.length === 0) ({ targets } = await ask("ready"));
  take(await ask("faults"));
}

function take({ kinds, script, scripted, chances }) {
  if (byId("fault-kind").children.length === 0) fill(kinds);
  const total = scripted + chances.length;
  writeOrHide(byId("faults-badge"), total ? total.toLocaleString("en") : null);
  byId("faults-empty").hidden = total > 0;
  byId("clear-faults").hidden = total === 0;
  renderScript(script, scripted);
  const pairs = chances.map((chance, index) => [`${index} ${JSON.stringify(chance)}`, chance]);
  arrange(byId("chances"), pairs, makeChance);
}

function fill(kinds) {
  const groups = Map.groupBy(kinds, groupOf);
  for (const [label, names] of groups) {
    const options = names.map((name) => make("option", { value: name }, nameOf(name)));
    byId("fault-kind").append(make("optgroup", { label }, ...options));
  }
  const options = targets.map((name) => make("option", { value: name }, `${kindOf(name)} (${name})`));
  byId("fault-operation").append(make("option", { value: "" }, "Every operation of messaging"), ...options);
  explain();
}

/** Show the script, equal faults in a row as one line. */
function renderScript(script, scripted) {
  const runs = [];
  for (const each of script) {
    const text = JSON.stringify(each);
    if (runs.at(-1)?.text === text) runs.at(-1).times += 1;
    else runs.push({ text, each, times: 1 });
  }
  const pairs = runs.map((run, index) => [`${index} ${run.times} ${run.text}`, run]);
  arrange(byId("script"), pairs, makeRun);
  const capped = scripted > script.length;
  writeOrHide(byId("script-capped"), capped ? `and ${(scripted - script.length).toLocaleString("en")} more` : null);
}

function makeRun({ each, times }) {
  const of = each.order ? [" of order ", make("code", {}, each.order)] : [];
  const which = times === 1 ? "the next request" : `the next ${times} requests`;
  return make("li", {}, make("strong", {}, nameOf(each.fault)), ` for ${which} to `, ...meantBy(each), ...of);
}

function makeChance(chance) {
  const percent = Number((chance.probability * 100).toFixed(4));
  return make("li", {}, make("strong", {}, nameOf(chance.fault)), ` for ${percent} % of requests to `, ...meantBy(chance));
}

function meantBy({ operation }) {
  return operation ? [make("code", {}, operation)] : ["any operation of messaging"];
}

// The form

function explain() {
  write(byId("fault-sentence"), sentenceOf(byId("fault-kind").value));
}

function isChance() {
  return document.querySelector("input[name=often]:checked").value === "chance";
}

function chooseOften() {
  byId("fault-times").disabled = isChance();
  byId("fault-percent").disabled = !isChance();
  byId("fault-order").disabled = isChance();
  byId("chance-note").hidden = !isChance();
}

function wanted() {
  const fault = { fault: byId("fault-kind").value, operation: byId("fault-operation").value || null };
  if (isChance()) return { ...fault, probability: byId("fault-percent").valueAsNumber / 100 };
  const order = byId("fault-order").value.trim() || null;
  return { ...fault, order, times: byId("fault-times").valueAsNumber };
}

async function add(event) {
  event.preventDefault();
  const fault = wanted();
  const done = `Added: ${nameOf(fault.fault)}.`;
  await attempt(byId("fault-problem"), async () => take(await ask("faults", "POST", fault)), done);
}

async function clear() {
  await attempt(
    byId("fault-problem"),
    async () => {
      await ask("faults", "DELETE");
      await refresh();
    },
    "Nothing is going to fail any more.",
  );
  byId("faults-heading").focus(); // the button is gone
}

byId("fault-kind").addEventListener("change", explain);
for (const radio of document.querySelectorAll("input[name=often]")) {
  radio.addEventListener("change", chooseOften);
}
byId("fault-form").addEventListener("submit", add);
byId("clear-faults").addEventListener("click", clear);
