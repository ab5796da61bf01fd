// The description of the HTTP API as a page, made from the process's own OpenAPI document.

import { request } from "./api.js";
import { h } from "./dom.js";
import { empty, failed, loading } from "./parts.js";

/** The last part of a reference: `#/components/schemas/Problem` is `Problem`. */
const nameOf = (ref) => ref.split("/").at(-1);
const anchor = (name) => `schema-${name}`;

/** A schema in a few words; named ones link to their table. */
function kind(schema) {
  if (!schema) return "text";
  if (schema.$ref) {
    const name = nameOf(schema.$ref);
    const jump = (event) => {
      event.preventDefault();
      const target = document.getElementById(anchor(name));
      target?.scrollIntoView({ block: "start" });
      target?.focus({ preventScroll: true });
    };
    return h("a", { href: "#/api", onclick: jump }, name);
  }
  const parts = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (parts) return h("span", null, ...parts.flatMap((part, index) => (index ? [" or ", kind(part)] : [kind(part)])));
  const types = [schema.type ?? "any"].flat();
  if (types.includes("array")) return h("span", null, "list of ", kind(schema.items ?? {}));
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  const bounds = [
    schema.minimum === undefined ? null : `from ${schema.minimum}`,
    schema.maximum === undefined ? null : `up to ${schema.maximum}`,
    schema.default === undefined ? null : `default ${JSON.stringify(schema.default)}`,
  ];
  return [types.join(" or "), ...bounds.filter(Boolean)].join(", ");
}

function table(label, titles, rows) {
  const head = h("tr", null, ...titles.map((title) => h("th", { scope: "col" }, title)));
  const line = ([first, ...cells]) =>
    h("tr", null, h("th", { scope: "row" }, first), ...cells.map((cell) => h("td", null, cell)));
  return h(
    "div",
    { class: "wide", role: "region", tabindex: "0", "aria-label": label },
    h("table", null, h("thead", null, head), h("tbody", null, ...rows.map(line))),
  );
}

function properties(label, schema) {
  const parts = [schema, ...(schema.allOf ?? [])];
  const found = parts.flatMap((part) => Object.entries(part.properties ?? {}));
  const base = parts.find((part) => part.$ref);
  const more = base ? [h("p", null, "With all of ", kind(base), ".")] : [];
  if (!found.length) return [...more, h("p", { class: "faint" }, kind(schema))];
  const rows = found.map(([name, property]) => [h("code", null, name), kind(property), property.description ?? ""]);
  return [...more, table(label, ["Field", "Type", "Meaning"], rows)];
}

function operation(method, path, { summary, description, parameters = [], requestBody, responses }) {
  const title = `${method.toUpperCase()} ${path}`;
  const body = Object.values(requestBody?.content ?? {})[0]?.schema;
  const answers = Object.entries(responses).map(([status, { description: meaning, content = {} }]) => {
    const [[type, { schema } = {}] = []] = Object.entries(content);
    return [h("code", null, status), meaning, type ? h("span", null, kind(schema), ` (${type})`) : ""];
  });
  const asked = parameters.map((parameter) => [
    h("code", null, parameter.name),
    `${parameter.in}${parameter.required ? ", required" : ""}`,
    kind(parameter.schema),
    parameter.description ?? "",
  ]);
  return h(
    "details",
    { class: "operation" },
    h(
      "summary",
      null,
      h("span", { class: "tag" }, method.toUpperCase()),
      h("code", null, path),
      h("span", { class: "faint" }, summary ?? ""),
    ),
    description && description !== summary ? h("p", null, description) : null,
    asked.length ? table(`Parameters of ${title}`, ["Parameter", "In", "Type", "Meaning"], asked) : null,
    body
      ? h("p", null, "Body: ", kind(body), requestBody.required ? "" : "; an empty body stands for {}")
      : null,
    table(`Answers of ${title}`, ["Status", "Meaning", "Content"], answers),
  );
}

function page(document) {
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, found]) => ({ method, path, tag: found.tags?.[0] ?? "other", found })),
  );
  const tags = [...new Set(operations.map(({ tag }) => tag))];
  const schemas = Object.entries(document.components?.schemas ?? {});
  return [
    h("p", { class: "note" }, `${document.info.description} Version ${document.info.version}, OpenAPI ${document.openapi}: `, h("code", null, "/api/openapi.json")),
    h(
      "p",
      { class: "note" },
      "Send the header Authorization: Bearer TOKEN if admin.token is configured. Errors are application/problem+json with a stable code.",
    ),
    ...tags.map((tag) =>
      h(
        "section",
        { "aria-label": tag },
        h("h2", null, tag[0].toUpperCase() + tag.slice(1)),
        ...operations.filter((one) => one.tag === tag).map(({ method, path, found }) => operation(method, path, found)),
      ),
    ),
    h(
      "section",
      { "aria-label": "Schemas" },
      h("h2", null, "Schemas"),
      ...schemas.map(([name, schema]) =>
        h(
          "div",
          { class: "schema" },
          h("h3", { id: anchor(name), tabindex: "-1" }, name),
          schema.description ? h("p", null, schema.description) : null,
          ...properties(`Fields of ${name}`, schema),
        ),
      ),
    ),
  ];
}

export function referenceView() {
  const heading = h("h1", { tabindex: "-1" }, "HTTP API");
  const place = h("div", { class: "reference" }, loading("Loading the description"));
  const read = () =>
    request("api/openapi.json").then(
      (document) => place.replaceChildren(...page(document)),
      (error) => {
        const absent = empty(error.message, error.remedy ?? "");
        place.replaceChildren(error.status === 404 ? absent : failed(error, read));
      },
    );
  read();
  return {
    element: h("div", { class: "page" }, h("header", { class: "head" }, heading), place),
    title: "HTTP API",
    focus: () => heading,
    escape() {
      location.hash = "#/";
      return true;
    },
  };
}
