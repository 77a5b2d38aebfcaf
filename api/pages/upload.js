// Handing files in, and following the job that indexes them.

import { getJson, send } from "./api.js";
import { el } from "./dom.js";
import { events } from "./stream.js";
import { trouble } from "./troubles.js";

const STAGES = {
  wait: "Waiting",
  read: "Reading files",
  split: "Cutting into passages",
  embed: "Embedding",
  write: "Writing the index",
  build: "Indexing",
  end: "Nearly done",
};
const LOOK_MS = 1000;

/** Send the files and show their job in `list` until it has ended. */
export async function upload(files, list) {
  const names = [...files].map(({ name }) => name).join(", ");
  const state = el("p", { class: "where", role: "status" }, "Sending …");
  const bar = el("progress", { ariaLabel: `Progress of ${names}` });
  const entry = el("li", {}, el("strong", {}, names), state, bar);
  list.prepend(entry);
  try {
    const body = new FormData();
    for (const file of files) body.append("files", file);
    const { job } = await (await send("documents", { method: "POST", body })).json();
    const ended = job.finished_at ? job : await follow(job, (now) => progress(now, state, bar));
    state.textContent = outcome(ended);
    entry.append(...failures(ended));
  } catch (error) {
    const { title, detail } = trouble(error);
    state.textContent = [title, detail].filter(Boolean).join(": ");
    entry.classList.add("failed");
  } finally {
    bar.remove();
  }
}

async function follow(job, show) {
  show(job);
  const response = await send(`jobs/${job.id}`, { headers: { Accept: "text/event-stream" } });
  if (response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    for await (const { data } of events(response.body)) {
      job = data.job;
      show(job);
    }
  }
  // The stream may end before the job does: where its server stops, or after an hour.
  while (!job.finished_at) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    ({ job } = await getJson(`jobs/${job.id}`));
    show(job);
  }
  return job;
}

function progress(job, state, bar) {
  const count = job.total > 0 && job.stage !== "wait" ? ` ${job.done} of ${job.total}` : "";
  const text = `${STAGES[job.stage] ?? job.stage}${count}${job.error ? `. ${job.error}` : ""}`;
  if (state.textContent !== text) state.textContent = text;
  if (count) {
    bar.max = job.total;
    bar.value = job.done;
  } else {
    bar.removeAttribute("value");
  }
}

/** "2 added, 1 unchanged". */
function outcome(job) {
  if (job.state === "failed") return `Failed: ${job.error ?? "the server did not say why"}`;
  const counts = new Map();
  for (const { status } of job.documents) counts.set(status, (counts.get(status) ?? 0) + 1);
  return [...counts].map(([status, count]) => `${count} ${status}`).join(", ") || "Done";
}

function failures(job) {
  return job.documents
    .filter(({ status }) => status === "failed")
    .map(({ doc_id, reason }) => el("p", { class: "where warn" }, `${doc_id}: ${reason ?? "could not be read"}`));
}
