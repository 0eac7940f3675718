// Server-sent events out of a stream of bytes: https://html.spec.whatwg.org/multipage/server-sent-events.html

const LINE = /\r\n|\n|\r(?=[^])/; // a \r at the end may be half of a \r\n

/** Yields {data} for each event and {comment} for each comment line. */
export async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (text + value).split(LINE);
    text = lines.pop();
    for (const line of lines) {
      if (line === "" && data.length) {
        yield { data: data.join("\n") };
        data = [];
      } else if (line.startsWith(":")) yield { comment: line.slice(1).trim() };
      else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
    }
  }
}
