// The request as a command and as a program. A key is taken from the environment: what is copied may be pasted anywhere.

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`; // for a POSIX shell

/** A curl command; `withKey` where a key is needed. */
export function asCurl(url, request, withKey) {
  const lines = [
    `curl ${request.stream ? "-N " : ""}${quoted(url)}`,
    "-H 'Content-Type: application/json'",
    ...(withKey ? ['-H "Authorization: Bearer $OPENAI_API_KEY"'] : []),
    `-d ${quoted(JSON.stringify(request, null, 2))}`,
  ];
  return lines.join(" \\\n  ");
}

const KNOWN = ["model", "messages", "stream"]; // the SDK itself must be told of these

/** A program for the openai SDK; `more` are fields that it may not know. */
export function asPython(base, request, more, withKey) {
  const key = withKey ? 'os.environ["OPENAI_API_KEY"]' : '"unused"';
  const named = Object.entries(request).filter(([name]) => KNOWN.includes(name) || !(name in more));
  const given = Object.keys(more).length ? [...named, ["extra_body", more]] : named;
  const reply = request.stream ? "stream" : "reply";
  return [
    ...(withKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(base)}, api_key=${key})`,
    `${reply} = client.chat.completions.create(`,
    ...given.map(([name, value]) => `    ${name}=${literal(value)},`),
    ")",
    ...(request.stream ? STREAMED : ["print(reply.choices[0].message.content)"]),
    "",
  ].join("\n");
}

const STREAMED = [
  "for chunk in stream:",
  "    for choice in chunk.choices:",
  '        print(choice.delta.content or "", end="", flush=True)',
  "print()",
];

/** A value of JSON as Python writes it; a text in JSON is one in Python too. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one)}`).join(", ")}}`;
}
