// The page: the address determines what is shown, and every control changes the address.

import { LISTS, readAddress, writeAddress } from "./address.js";
import { Categories, offer } from "./categories.js";
import * as server from "./server.js";
import { element, errorText, foundHead, listEntries, listHead, pastEntries } from "./view.js";

const byId = (id) => document.getElementById(id);
const section = (list) => document.querySelector(`[data-list="${list}"]`);
const other = (list) => LISTS.find((one) => one !== list);

const categories = { allow: new Categories(byId("allow"), changed), deny: new Categories(byId("deny"), changed) };
let known = null; // arms and limits of the server
let asking = new AbortController();

async function show() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  try {
    known ??= await learn(signal);
    const view = withDefaults(readAddress(location.search));
    fill(view);
    if (!view.user && !view.words) {
      clear();
      return;
    }
    history.replaceState(null, "", writeAddress(view));
    await answer(view, signal);
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 401) askForKey();
    else if (error instanceof server.Refused) say(errorText(error.errors));
    else throw error;
  }
}

async function learn(signal) {
  const [arms, limits] = await Promise.all([server.arms(signal), server.limits(signal)]);
  return { arms, ...limits };
}

/** List A is the first arm's. List B is the second's, or another retriever's where there is one arm. */
function withDefaults(view) {
  const [first, second] = known.arms;
  const { a, b } = view.lists;
  a.arm ||= first.name;
  if (!b.arm) {
    b.arm = (second ?? first).name;
    if (!second) b.retriever ||= known.retrievers.find((name) => name !== (a.retriever || first.retriever));
  }
  return view;
}

function fill(view) {
  document.title = [view.words, view.user, "twinspire"].filter(Boolean).join(" – ");
  byId("user").value = view.user;
  byId("words").value = view.words;
  byId("k").value = view.k;
  byId("exclude").checked = view.exclude;
  byId("explain").checked = view.explain;
  categories.allow.show(view.allow);
  categories.deny.show(view.deny);
  for (const list of LISTS) {
    const { arm, retriever } = view.lists[list];
    const own = known.arms.find(({ name }) => name === arm)?.retriever;
    const arms = known.arms.map(({ name, bundle }) => [name, `${name} (${bundle})`]);
    select(section(list).querySelector(".arm"), arm, arms);
    select(section(list).querySelector(".retriever"), retriever, [
      ["", own ? `${own} (the arm's)` : "the arm's"],
      ...known.retrievers.map((name) => [name, name]),
    ]);
  }
}

function select(control, value, options) {
  // What a link names and the server does not know stays: the server then says what is wrong with it.
  const all = options.some(([name]) => name === value) ? options : [...options, [value, value]];
  control.replaceChildren(...all.map(([name, text]) => element("option", { value: name }, text)));
  control.value = value;
}

function viewOfControls() {
  const lists = LISTS.map((list) => {
    const [arm, retriever] = [".arm", ".retriever"].map((name) => section(list).querySelector(name).value);
    return [list, { arm, retriever }];
  });
  return {
    user: byId("user").value.trim(),
    words: byId("words").value.trim(),
    k: byId("k").value.trim() || "10",
    allow: categories.allow.names,
    deny: categories.deny.names,
    exclude: byId("exclude").checked,
    explain: byId("explain").checked,
    lists: Object.fromEntries(lists),
  };
}

function changed() {
  const controls = viewOfControls();
  // Until the arms are known, their controls are empty.
  const address = writeAddress(known === null ? { ...controls, lists: readAddress(location.search).lists } : controls);
  if (address !== location.search) history.pushState(null, "", address);
  show();
}

async function answer(view, signal) {
  byId("columns").setAttribute("aria-busy", "true");
  try {
    const searched = view.words ? server.search(searchQuestion(view), signal) : null;
    const answers = LISTS.map((list) => (view.user ? server.recommend(question(view, list), signal) : null));
    const past = view.user ? server.history(view.user, signal) : null;
    const [byWords, bought, ...found] = await Promise.all([searched, past, ...answers].map(orRefused));
    const refused = [byWords, bought, ...found].find((one) => one instanceof server.Refused && one.status === 401);
    if (refused) throw refused;
    const lists = Object.fromEntries(LISTS.map((list, place) => [list, found[place]]));
    const pasts = view.user ? await pastsOf(view.user, bought, lists, signal) : null;
    signal.throwIfAborted();
    clear();
    if (view.user) draw(view, bought, lists, pasts);
    if (byWords !== null) drawFound(byWords);
  } finally {
    if (!signal.aborted) byId("columns").removeAttribute("aria-busy");
  }
}

async function orRefused(asked) {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof server.Refused) return error;
    throw error;
  }
}

function question(view, list) {
  const { arm, retriever } = view.lists[list];
  return {
    user_id: view.user,
    // What is no number goes as it is, and the server says so.
    k: /^-?\d{1,9}$/.test(view.k) ? Number(view.k) : view.k,
    arm,
    ...(retriever && { retriever }),
    ...(view.exclude && { exclude_bought: true }),
    ...(view.allow.length && { allow_categories: view.allow }),
    deny_categories: view.deny,
    explain: view.explain,
  };
}

/** The filters of the lists hold for a search too; purchases are not left out of it. */
function searchQuestion(view) {
  const { k, allow_categories, deny_categories, explain } = question(view, LISTS[0]);
  return { query: view.words, k, allow_categories, deny_categories, explain, ...(view.user && { user_id: view.user }) };
}

/** List -> ids of what the user bought, as its bundle knows it; the history alone shows the latest only. */
async function pastsOf(user, bought, lists, signal) {
  const shown = bought?.items?.map((item) => item.item_id) ?? [];
  const ofBundle = new Map();
  const pasts = LISTS.map(async (list) => {
    const { arm, bundle_version: version } = lists[list];
    if (version === undefined) return [list, new Set()];
    if (!ofBundle.has(version)) ofBundle.set(version, orRefused(server.pastItems(user, arm, known.maxK, signal)));
    const found = await ofBundle.get(version);
    return [list, new Set(found instanceof server.Refused ? shown : [...shown, ...found])];
  });
  return Object.fromEntries(await Promise.all(pasts));
}

function draw(view, bought, lists, pasts) {
  const ranks = Object.fromEntries(
    LISTS.map((list) => [list, new Map((lists[list].items ?? []).map((item, place) => [item.item_id, place + 1]))]),
  );
  drawPast(view.user, bought, ranks, Math.max(...LISTS.map((list) => pasts[list].size)));
  for (const list of LISTS) {
    const found = lists[list];
    const isRefused = found instanceof server.Refused;
    const marks = { past: pasts[list], other: other(list), otherRanks: ranks[other(list)] };
    section(list).querySelector(".items").replaceChildren(...(isRefused ? [] : listEntries(found.items, marks)));
    section(list).querySelector(".head").replaceChildren(...(isRefused ? [] : listHead(found)));
    if (isRefused) found.errors.forEach((error) => tellAt(section(list), error));
    else offer(found.items);
  }
  if (LISTS.some((list) => lists[list] instanceof server.Refused)) {
    say("Something in the request is wrong; see the fields.");
    return;
  }
  const shared = [...ranks.a.keys()].filter((item) => ranks.b.has(item)).length;
  const unknown = bought === null ? `There is no user ${view.user}. ` : "";
  say(`${unknown}${ranks.a.size} items in list A, ${ranks.b.size} in list B, ${shared} in both.`);
}

function drawFound(found) {
  const part = byId("found");
  part.hidden = false;
  if (found instanceof server.Refused) {
    found.errors.forEach((error) => tellAt(part, error));
    say("Something in the request is wrong; see the fields.");
    return;
  }
  part.querySelector(".head").replaceChildren(...foundHead(found));
  const marks = { past: new Set(), other: "", otherRanks: new Map() };
  part.querySelector(".items").replaceChildren(...listEntries(found.items, marks));
  offer(found.items);
  const count = `${found.items.length} ${found.items.length === 1 ? "item" : "items"} found by words.`;
  say([byId("status").textContent, count].filter(Boolean).join(" "));
}

function drawPast(user, bought, ranks, numBought) {
  const items = bought?.items ?? [];
  const note = byId("past-note");
  byId("past").hidden = items.length === 0;
  byId("past").replaceChildren(...pastEntries(items, ranks));
  offer(items);
  if (bought === null) note.replaceChildren(`There is no user ${user}. The lists are those of unknown users.`);
  else if (bought instanceof server.Refused) note.replaceChildren(errorText(bought.errors));
  else if (items.length === 0) note.replaceChildren("Nothing.");
  else if (items.length < numBought) note.replaceChildren(`The latest ${items.length} items of a longer history.`);
  else note.replaceChildren(`${items.length} ${items.length === 1 ? "item" : "items"}, the latest first.`);
}

/** Shows an error at the control it is about; several parts of the page may have the same one. */
function tellAt(part, error) {
  const field = `[data-field="${CSS.escape(error.field.split(".")[0])}"]`;
  const place = part.querySelector(field) ?? byId("question").querySelector(field);
  const text = errorText([error]);
  if (place === null) {
    part.querySelector(".head").append(text);
    return;
  }
  if (place.querySelector(".error")) return;
  place.append(text);
  const control = place.querySelector("input, select");
  text.id = `${control.id}-error`;
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-describedby", text.id);
}

function forgetErrors() {
  document.querySelectorAll("[data-field] .error").forEach((text) => text.remove());
  document.querySelectorAll("[aria-invalid]").forEach((control) => {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-describedby");
  });
}

function clear() {
  forgetErrors();
  say("");
  byId("key").hidden = true;
  byId("past").hidden = true;
  byId("found").hidden = true;
  byId("past-note").replaceChildren("Type a user's id and press Enter.");
  document.querySelectorAll(".head, .items").forEach((part) => part.replaceChildren());
}

function askForKey() {
  const wrong = server.hasKey();
  clear();
  byId("past-note").replaceChildren();
  say(wrong ? "The server does not take this key." : "The server asks for its key.");
  byId("key").hidden = false;
  byId("key-text").focus();
}

function say(text) {
  byId("status").replaceChildren(text);
}

/** The same item in all columns is lit while one of them is pointed at. */
function light(item) {
  document.querySelectorAll("[data-item]").forEach((entry) => entry.classList.toggle("lit", entry.dataset.item === item));
}

byId("question").addEventListener("submit", (event) => {
  event.preventDefault();
  changed();
});
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  server.keepKey(byId("key-text").value.trim());
  byId("key-text").value = "";
  show();
});
for (const control of [byId("k"), byId("exclude"), byId("explain"), ...document.querySelectorAll("select")]) {
  control.addEventListener("change", changed);
}
byId("columns").addEventListener("pointerover", (event) => light(event.target.closest("[data-item]")?.dataset.item));
byId("columns").addEventListener("pointerleave", () => light(undefined));
addEventListener("popstate", show);
show();
