// The view as an address: a link reproduces it.

export const LISTS = ["a", "b"];

/** The view that a query string describes; what it leaves out is empty. */
export function readAddress(search) {
  const query = new URLSearchParams(search);
  const text = (name) => query.get(name) ?? "";
  return {
    user: text("user"),
    words: text("words"),
    k: text("k") || "10",
    allow: query.getAll("allow"),
    deny: query.getAll("deny"),
    exclude: text("exclude") === "1",
    explain: text("explain") === "1",
    lists: Object.fromEntries(
      LISTS.map((list) => [list, { arm: text(`arm_${list}`), retriever: text(`retriever_${list}`) }]),
    ),
  };
}

/** The query string of a view. */
export function writeAddress(view) {
  const query = new URLSearchParams();
  query.set("user", view.user);
  if (view.words) query.set("words", view.words);
  query.set("k", view.k);
  view.allow.forEach((category) => query.append("allow", category));
  view.deny.forEach((category) => query.append("deny", category));
  if (view.exclude) query.set("exclude", "1");
  if (view.explain) query.set("explain", "1");
  for (const list of LISTS) {
    const { arm, retriever } = view.lists[list];
    if (arm) query.set(`arm_${list}`, arm);
    if (retriever) query.set(`retriever_${list}`, retriever);
  }
  return `?${query}`;
}
