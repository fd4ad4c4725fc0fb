// Requests to the server, and its errors.

const KEY = "twinspire-key";

/** An answer that is none: what is wrong with which field. */
export class Refused extends Error {
  constructor(status, errors) {
    super(errors.map(({ field, message }) => `${field}: ${message}`).join("; "));
    this.status = status;
    this.errors = errors;
  }
}

/** Keeps the key until the tab is closed. */
export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Whether a key is kept. */
export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/** The arms of the server. */
export async function arms(signal) {
  return (await ask("v1/arms", { signal })).arms;
}

/** What a request may say: names of the retrievers, and the largest k. */
export async function limits(signal) {
  const { paths } = await ask("openapi.json", { signal });
  const { properties } = paths["/v1/recommend"].post.requestBody.content["application/json"].schema;
  return { retrievers: properties.retriever.anyOf[0].enum, maxK: properties.k.maximum };
}

/** What a user bought; null where nobody of that id is known. */
export async function history(user, signal) {
  try {
    return await ask(`v1/users/${encodeURIComponent(user)}/history`, { signal });
  } catch (error) {
    if (error.status === 404 && error.errors[0].field === "user_id") return null;
    throw error;
  }
}

/** One user's list, and the time of each stage. The arm is always named: a look at this page is no exposure. */
export async function recommend(question, signal) {
  const { results, stage_microseconds: stages } = await post("v1/recommend", question, signal);
  return { ...results[0], stages };
}

/** Items that have typed words, and the time of each stage. */
export async function search(question, signal) {
  const { stage_microseconds: stages, ...found } = await post("v1/search", question, signal);
  return { ...found, stages };
}

/** Ids of the items in a user's past, as an arm's bundle knows it: what `repeat` answers, up to the largest k. */
export async function pastItems(user, arm, maxK, signal) {
  const list = await recommend({ user_id: user, arm, k: maxK, retriever: "repeat" }, signal);
  return list.fallback === null ? list.items.map((item) => item.item_id) : [];
}

function post(path, question, signal) {
  const body = JSON.stringify({ ...question, timings: true });
  return ask(path, { signal, method: "POST", headers: { "Content-Type": "application/json" }, body });
}

async function ask(path, { headers = {}, ...options }) {
  const key = sessionStorage.getItem(KEY);
  const sent = key === null ? headers : { ...headers, "X-API-Key": bytes(key) };
  let response;
  try {
    response = await fetch(path, { ...options, headers: sent });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, [{ field: "body", message: "the server does not answer" }]);
  }
  const content = await response.json().catch(() => null);
  if (response.ok && content !== null) return content;
  const unsaid = [{ field: "body", message: `the server answers with status ${response.status}` }];
  throw new Refused(response.status, content?.errors ?? unsaid);
}

// A header takes bytes, written as characters below 256; the server's key is UTF-8.
function bytes(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}
