// The look of an answer. Texts of the catalogue become text nodes, never markup.

const REASONS = {
  unknown_user: "The bundle does not know this user.",
  no_history: "Nothing is known of what this user bought.",
  no_features: "The online store did not answer; features that the bundle knows were used.",
  nothing_found: "The retriever found nothing for this user.",
  filled: "The list was too short; popular items fill its end.",
  short: "The list has fewer items than were asked for: there are no more.",
  late: "The request took too long for a second look; the fused list answered.",
  no_tables: "The bundle has no SparCode tables; the two towers answered.",
};

/** An element with attributes and children; strings become text. */
export function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** What to call an item. */
export function nameOf(item) {
  return item.item_name ?? `item ${item.item_id}`;
}

/** Entries of a history, each with its places in the lists: letter -> item -> rank. */
export function pastEntries(items, ranks) {
  return items.map((item) => {
    const times = item.num_events === 1 ? "once" : `${item.num_events} times`;
    const when = new Date(item.last_seconds * 1000).toISOString().slice(0, 10);
    const marks = Object.entries(ranks).flatMap(([list, own]) => placeMark(list, own.get(item.item_id)));
    return element(
      "li",
      { "data-item": item.item_id },
      element("span", { class: "name", title: item.item_id }, nameOf(item)),
      element("span", { class: "below" }, ...categoryOf(item), ...marks),
      element("span", { class: "when soft" }, `${times}, last on `, element("time", { datetime: when }, when)),
    );
  });
}

/**
 * Entries of a list: rank, item, score, and what is to be marked.
 *
 * `past` holds ids of what the user bought; `other` is the other list's letter, `otherRanks` its places by item.
 */
export function listEntries(items, { past, other, otherRanks }) {
  return items.map((item, place) => {
    const bought = past.has(item.item_id) ? [element("span", { class: "mark bought" }, "bought before")] : [];
    const marks = [...bought, ...placeMark(other, otherRanks.get(item.item_id))];
    return element(
      "li",
      { "data-item": item.item_id },
      element("span", { class: "rank" }, `${place + 1}`),
      element("span", { class: "name", title: item.item_id }, nameOf(item)),
      element("span", { class: "score", title: `score ${item.score}` }, shortly(item.score)),
      element("span", { class: "below" }, ...categoryOf(item), ...marks),
      ...(item.explanation ? [explanation(item.explanation)] : []),
    );
  });
}

/** Who answered, whether plainly, and in what time. */
export function listHead(list) {
  const facts = Object.entries({ bundle: list.bundle_version, arm: list.arm, retriever: list.retriever });
  const terms = facts.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value)));
  const reasons = list.reasons.map((reason) => REASONS[reason] ?? reason);
  if (list.fallback !== null) reasons.push(`The retriever ${list.fallback} answers instead.`);
  const head = [element("dl", { class: "facts" }, ...terms)];
  if (reasons.length) head.push(element("ul", { class: "reasons" }, ...reasons.map((reason) => element("li", {}, reason))));
  head.push(timings(list.stages));
  if (!list.items.length) head.push(element("p", { class: "soft" }, "No item is left to answer with."));
  return head;
}

/** What was understood of typed words, and in what time they were found. */
export function foundHead({ corrected, items, reasons, bundle_version, stages }) {
  const said = Object.entries(corrected).map(([typed, meant]) => `${typed}: looked for ${meant}.`);
  if (!items.length) said.push("No item that may come has any of these words.");
  said.push(...reasons.filter((reason) => reason !== "nothing_found").map((reason) => REASONS[reason] ?? reason));
  const bundle = element("div", {}, element("dt", {}, "bundle"), element("dd", {}, bundle_version));
  const notes = said.length ? [element("ul", { class: "reasons" }, ...said.map((text) => element("li", {}, text)))] : [];
  return [element("dl", { class: "facts" }, bundle), ...notes, timings(stages)];
}

/** What is wrong, for people. */
export function errorText(errors) {
  return element("p", { class: "error" }, errors.map(sentence).join(" "));
}

// Some messages go on from the field's name, others are sentences.
function sentence({ field, message }) {
  const goesOn = /^(is|are|has|names) /.test(message);
  const text = goesOn ? `${field} ${message}` : `${message.slice(0, 1).toUpperCase()}${message.slice(1)}`;
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

function categoryOf(item) {
  if (item.category === null) return [];
  const shown = element("span", { class: "category" }, item.category);
  // The same colour in all lists, so that kinds of items can be compared at a glance.
  const number = [...item.category].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);
  shown.style.setProperty("--hue", `${number}`);
  return [shown];
}

function placeMark(list, rank) {
  if (rank === undefined) return [];
  const letter = list.toUpperCase();
  const spoken = element("span", { class: "spoken" }, ` (rank in list ${letter})`);
  const attributes = { class: `mark in-${list}`, title: `rank ${rank} in list ${letter}` };
  return [element("span", attributes, `${letter} #${rank}`, spoken)];
}

function explanation({ found_by, near, interest, matches, counted }) {
  const places = Object.entries(found_by).map(
    ([retriever, { rank, score }]) => `${retriever} at rank ${rank} (${shortly(score)})`,
  );
  const listed = (items) => items.map((item) => `${nameOf(item)} (${item.cosine.toFixed(2)})`);
  const alike = listed(near);
  const found = places.length ? `Found by ${places.join(", ")}.` : "What was asked did not find it; it was filled in.";
  const nearby = interest && interest.near.length ? `: nearest to ${listed(interest.near).join("; ")}` : "";
  const by = interest ? ` Interest ${interest.number} of the user${nearby}.` : "";
  const terms = matches && matches.length ? ` Matches: ${matches.join(", ")}.` : "";
  const raised = Object.entries(counted || {}).map(([name, by]) => `${name.replaceAll("_", " ")} (+${shortly(by)})`);
  const look = raised.length ? ` Its score was raised by ${raised.join(", ")}.` : "";
  const like = alike.length
    ? `Of the user's past most like it, by cosine: ${alike.join("; ")}.`
    : "Nothing in the user's past to compare it with.";
  return element("details", {}, element("summary", {}, "Why?"), element("p", {}, found + by + look + terms), element("p", {}, like));
}

function timings(stages) {
  const entries = Object.entries(stages);
  const total = entries.reduce((sum, [, microseconds]) => sum + microseconds, 0);
  const bar = element("span", { class: "stages", "aria-hidden": "true" });
  const rows = entries.map(([stage, microseconds], place) => {
    const part = element("span", { class: `stage-${place % 8}` });
    part.style.setProperty("flex-grow", `${microseconds / total}`);
    bar.append(part);
    return element(
      "li",
      {},
      element("span", { class: `swatch stage-${place % 8}`, "aria-hidden": "true" }),
      `${stage.replaceAll("_", " ")} `,
      element("span", { class: "number" }, milliseconds(microseconds)),
    );
  });
  const summary = element("summary", {}, `answered in ${milliseconds(total)}`, bar);
  return element("details", { class: "timings" }, summary, element("ul", {}, ...rows));
}

function milliseconds(microseconds) {
  return `${(microseconds / 1000).toFixed(microseconds < 10_000 ? 2 : 1)} ms`;
}

// Scores of two retrievers have different units and sizes.
function shortly(score) {
  return Math.abs(score) >= 1000 ? score.toFixed(0) : score.toPrecision(4);
}
