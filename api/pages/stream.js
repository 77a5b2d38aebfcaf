// Server-sent events out of a response's body; EventSource can neither POST nor send a key.
// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

/** Yield {event, id, data} with `data` parsed; what the end of the body leaves unfinished is dropped. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let frame = empty();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line !== "") {
          take(frame, line);
          continue;
        }
        if (frame.data.length > 0) yield { ...frame, data: JSON.parse(frame.data.join("\n")) };
        frame = empty();
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const empty = () => ({ event: "message", id: "", data: [] });

function take(frame, line) {
  const colon = line.indexOf(":");
  const [name, value] =
    colon < 0 ? [line, ""] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
  if (name === "data") frame.data.push(value);
  else if (name === "event" || name === "id") frame[name] = value;
}
