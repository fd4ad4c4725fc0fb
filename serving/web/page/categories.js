// The chosen categories: by name, one after another; those that were seen are suggested.

import { element } from "./view.js";

const seen = new Set();

/** Offers the categories of some items in all inputs. */
export function offer(items) {
  const before = seen.size;
  items.forEach(({ category }) => category !== null && seen.add(category));
  if (seen.size === before) return;
  const options = [...seen].sort().map((category) => element("option", { value: category }));
  document.getElementById("categories").replaceChildren(...options);
}

/** An input whose entries become chips below it; `changed` is called when somebody adds or removes one. */
export class Categories {
  constructor(input, changed) {
    this.input = input;
    this.chips = input.parentElement.querySelector(".chips");
    this.changed = changed;
    this.names = [];
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !input.value.trim()) return;
      event.preventDefault();
      this.add();
    });
    input.addEventListener("change", () => this.add());
  }

  /** Shows these and no others. */
  show(names) {
    this.names = [...new Set(names)];
    this.chips.replaceChildren(...this.names.map((name) => element("li", {}, this.chip(name))));
  }

  add() {
    const name = this.input.value.trim();
    this.input.value = "";
    if (!name || this.names.includes(name)) return;
    this.show([...this.names, name]);
    this.changed();
  }

  chip(name) {
    const cross = element("span", { "aria-hidden": "true" }, "×");
    const button = element("button", { type: "button", "aria-label": `Remove ${name}` }, name, cross);
    button.addEventListener("click", () => {
      this.show(this.names.filter((other) => other !== name));
      this.input.focus();
      this.changed();
    });
    return button;
  }
}
