// What things are called in plain words. Amazon's names are the keys.

const KINDS = {
  getMessagingActionsForOrder: "What may be sent for an order",
  getAttributes: "The buyer’s language",
  confirmCustomizationDetails: "Question about a customization",
  createConfirmDeliveryDetails: "Question about the delivery",
  createLegalDisclosure: "Legal disclosure",
  createNegativeFeedbackRemoval: "Request to remove feedback",
  createConfirmOrderDetails: "Question about the order",
  createConfirmServiceDetails: "Question about a service",
  createAmazonMotors: "Amazon Motors documents",
  createWarranty: "Warranty",
  createDigitalAccessKey: "Digital access key",
  createUnexpectedProblem: "Unexpected problem",
  sendInvoice: "Invoice",
  createUploadDestinationForResource: "Place to upload a file to",
  token: "Login with Amazon",
  upload: "Upload of a file",
};

/** What an operation is called in words. */
export function kindOf(operation) {
  return KINDS[operation] ?? operation;
}

const REFUSED = "Refused: nothing reaches the buyer";
const ACCEPTED = "Accepted, and then it goes wrong: the message did reach the buyer";

const FAULTS = {
  THROTTLED: "Status 429, as if the usage plan were used up. The request may be sent again later.",
  INTERNAL_FAILURE: "Status 500. Amazon failed before it did anything, which the client cannot know.",
  INTERNAL_FAILURE_AFTER: "The message is delivered, and then the answer is status 500.",
  UNAVAILABLE: "Status 503. Nothing is done, which the client cannot know.",
  UNAVAILABLE_AFTER: "The message is delivered, and then the answer is status 503.",
  BAD_GATEWAY: "Status 502 with a page of HTML in place of JSON, as a proxy in between answers.",
  DROPPED: "The connection is dropped without an answer, and nothing is done.",
  DROPPED_AFTER: "The message is delivered, and then the connection is dropped without an answer.",
  HANG: "No answer comes, however long the client waits, and nothing is done.",
  HANG_AFTER: "The message is delivered, and then no answer comes, however long the client waits.",
  HTML_AFTER: "The message is delivered, and the answer is a success that holds HTML.",
  EMPTY_AFTER: "The message is delivered, and the answer is a success that holds nothing.",
  TRUNCATED_AFTER: "The message is delivered, and the JSON of the answer breaks off.",
  CUT_AFTER: "The message is delivered, and the connection ends in the middle of the answer.",
  ERRORS_AFTER: "The message is delivered, and the answer is a success that lists errors.",
  HTML_ERROR: "Status 400 with a page of HTML in place of JSON.",
  REDIRECT: "Status 307, which sends the client elsewhere. A client must not follow it.",
  EXPIRED_TOKEN: "Status 403: the access token has expired. A new one helps.",
  REVOKED_TOKEN: "Status 403: the access token is revoked, malformed or invalid.",
  NOT_AVAILABLE: "Status 403: this kind of message is not available for this order.",
  DENIED: "Status 403 without a word about the token: the application lacks a permission.",
  TEMPORARILY_UNAVAILABLE: "Login with Amazon’s own word for a failure that passes. Meant for the token.",
};

/** What happens in a kind of failure, in one sentence or two. */
export function sentenceOf(fault) {
  return FAULTS[fault] ?? "";
}

/** The heading under which a kind of failure is listed. */
export function groupOf(fault) {
  return fault.endsWith("_AFTER") ? ACCEPTED : REFUSED;
}

/** The name of a kind of failure, for reading: "Bad gateway". */
export function nameOf(fault) {
  const words = fault.replace(/_AFTER$/, "").replaceAll("_", " ").toLowerCase();
  const name = words.replace("html", "HTML");
  return name[0].toUpperCase() + name.slice(1) + (fault.endsWith("_AFTER") ? ", after delivery" : "");
}

/** "1 message", "2 messages". */
export function count(number, noun, plural = `${noun}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;
}

const TIME = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit",
});
const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat("en-GB", { dateStyle: "long", timeZone: "UTC" });

/** A moment as its reader's clock shows it. */
export function timeOf(iso) {
  return TIME.format(new Date(iso));
}

/** A moment of today, or nearly, as its reader's clock shows it. */
export function clockOf(iso) {
  return CLOCK.format(new Date(iso));
}

/** The day of a moment in UTC, in which warranties are given. */
export function dayOf(iso) {
  return DAY.format(new Date(iso));
}

/** A size for people. */
export function sizeOf(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
