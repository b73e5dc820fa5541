"""The page at `/docs`: a list of all routes, which Swagger UI replaces where a browser can load it."""

__all__ = ["PAGE"]

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>modelrack</title>
<link rel="icon" href="data:,">
<style>
body { margin: 0 }
#list { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60em; margin: 0 auto; padding: 1em }
#list h2 { margin: 1.5em 0 .3em; border-bottom: 1px solid #ccc }
#list details { margin: .3em 0 }
#list summary { cursor: pointer }
#list code { font-size: .9em }
#list b { display: inline-block; width: 5em; font-size: .8em }
#list pre { background: #f4f4f4; padding: .7em; overflow: auto; font-size: .85em }
</style>
</head>
<body>
<div id="list"><h1>modelrack</h1></div>
<div id="swagger"></div>
<script>
const add = (parent, tag, text) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  return parent.appendChild(made);
};

function describeBody(about, operation) {
  const body = operation.requestBody?.content?.["application/json"]?.schema;
  if (!body) return null;
  return body.$ref ? about.components.schemas[body.$ref.split("/").pop()] : body;
}

function describe(block, about, path, method, operation) {
  const parameters = (operation.parameters || []).map(item => `${item.name} (${item.in})`);
  if (parameters.length) add(block, "p", "Parameters: " + parameters.join(", "));
  const body = describeBody(about, operation);
  const example = body?.examples?.[0];
  let command = `curl ${location.origin}${path}`;
  if (method !== "get") command = `curl -X ${method.toUpperCase()} ${location.origin}${path}`;
  if (example) command += ` -H 'Content-Type: application/json' \\\\\\n  -d '${JSON.stringify(example, null, 2)}'`;
  add(block, "pre", command);
  if (body?.properties) add(block, "p", "Fields: " + Object.keys(body.properties).join(", "));
}

function list(about) {
  const page = document.getElementById("list");
  const note = add(page, "p", about.info.description + " Version " + about.info.version + ". All fields: ");
  const link = add(note, "a", "openapi.json");
  link.href = "openapi.json";
  const groups = new Map((about.tags || []).map(tag => [tag.name, []]));
  for (const [path, operations] of Object.entries(about.paths))
    for (const [method, operation] of Object.entries(operations)) {
      const name = operation.tags?.[0] || "other";
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push([path, method, operation]);
    }
  for (const [name, members] of groups) {
    if (members.length) add(page, "h2", name);
    for (const [path, method, operation] of members) {
      const block = add(page, "details");
      const head = add(block, "summary");
      add(head, "b", method.toUpperCase());
      add(head, "code", path);
      add(head, "span", " " + operation.summary);
      describe(block, about, path, method, operation);
    }
  }
}

const described = fetch("openapi.json").then(answer => answer.json());
described.then(list);

// Swagger UI is larger than the whole server: it comes from its CDN, and without a network the list above stays.
const CDN = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/swagger-ui";
const script = document.createElement("script");
script.src = CDN + "-bundle.js";
script.onload = () => described.then(spec => {
  const style = add(document.head, "link");
  style.rel = "stylesheet";
  style.href = CDN + ".css";
  document.getElementById("list").hidden = true;
  SwaggerUIBundle({ spec, dom_id: "#swagger", deepLinking: true });
});
document.head.appendChild(script);
</script>
</body>
</html>
"""
