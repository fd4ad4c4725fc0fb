// The documentation: every operation of openapi.json, with its fields and answers.

import { element } from "./view.js";

const description = await (await fetch("openapi.json")).json();

function resolved(schema) {
  const name = schema.$ref?.split("/").pop();
  return name === undefined ? schema : description.components.schemas[name];
}

/** A schema in one line: types, limits and choices. */
function typeOf(schema) {
  if (schema.$ref) return typeOf(resolved(schema));
  if (schema.anyOf) return [...new Set(schema.anyOf.map(typeOf))].join(" or ");
  const { type, items, minimum, maximum, minItems, maxItems } = schema;
  const some = schema.enum && (schema.enum.length > 20 ? [...schema.enum.slice(0, 20), "..."] : schema.enum);
  const name = type === "array" && items ? `list of ${typeOf(items)}` : (type ?? "any");
  const range = ([least, most], what) =>
    least === undefined && most === undefined ? [] : [`${least ?? ""} to ${most ?? ""}${what}`];
  const limits = [...range([minimum, maximum], ""), ...range([minItems, maxItems], " entries")];
  return [name, ...limits, ...(some ? [`one of ${some.join(", ")}`] : [])].join(", ");
}

function fields(schema) {
  const { properties = {}, required = [] } = resolved(schema);
  return element(
    "ul",
    {},
    ...Object.entries(properties).map(([name, own]) => {
      const needed = required.includes(name) ? " (required)" : "";
      const nested = own.properties ? [fields(own)] : [];
      return element(
        "li",
        {},
        element("code", {}, name),
        `${needed}: ${typeOf(own)}. ${own.description ?? ""}`,
        ...nested,
      );
    }),
  );
}

function part(title, content) {
  const { schema } = content?.["application/json"] ?? {};
  return schema ? [element("details", {}, element("summary", {}, title), fields(schema))] : [element("p", {}, title)];
}

function operation(method, path, { description: about = "", requestBody, responses }) {
  return element(
    "section",
    { class: "card" },
    element("h2", {}, `${method.toUpperCase()} ${path}`),
    element("p", {}, about),
    ...(requestBody ? part("Request", requestBody.content) : []),
    ...Object.entries(responses).flatMap(([status, { description: text, content }]) =>
      part(`${status}: ${text}`, content),
    ),
  );
}

for (const [path, methods] of Object.entries(description.paths))
  for (const [method, about] of Object.entries(methods))
    document.getElementById("operations").append(operation(method, path, about));
