// The control API, and notes that are both seen and heard.

import { byId, write } from "./elements.js";

/** A request that the sandbox has refused; the message says why. */
export class Refused extends Error {}

/** Nobody answers. */
export class Unreachable extends Error {}

/** Ask the control API. Rejects with Refused or Unreachable. */
export async function ask(path, verb = "GET", body = undefined) {
  const request = { method: verb, cache: "no-store" };
  if (body !== undefined) {
    request.body = JSON.stringify(body);
    request.headers = { "Content-Type": "application/json" };
  }
  const { ok, status, text } = await answerTo(`/_sandbox/${path}`, request);
  if (!ok) throw new Refused(reasonIn(text) ?? `The sandbox answers with status ${status}.`);
  return text ? JSON.parse(text) : null;
}

async function answerTo(address, request) {
  try {
    const answer = await fetch(address, request);
    return { ok: answer.ok, status: answer.status, text: await answer.text() };
  } catch {
    throw new Unreachable("The sandbox does not answer.");
  }
}

function reasonIn(text) {
  try {
    return JSON.parse(text).error;
  } catch {
    return null;
  }
}

/** Do something, and show in a place how it went. Tells whether it went well. */
export async function attempt(place, action, done = "") {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
    place.classList.add("is-bad");
    write(place, error.message);
    return false;
  }
  place.classList.remove("is-bad");
  write(place, done);
  return true;
}

const QUIET = 1000; // milliseconds between two notes, for nobody hears more
let waiting = [];
let timer = null;

/** Tell of something that happened, where it is seen and heard whichever view is open. */
export function announce(text) {
  waiting.push(text);
  if (timer === null) tell();
}

function tell() {
  if (waiting.length === 0) {
    timer = null;
    return;
  }
  const [more, last] = [waiting.length - 1, waiting.at(-1)];
  write(byId("note"), more ? `${last} (${more} more before)` : last);
  waiting = [];
  timer = setTimeout(tell, QUIET);
}
