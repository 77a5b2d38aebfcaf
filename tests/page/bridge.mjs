// Drives one Chromium for tests written in Python: a line of JSON in, a line of JSON out.
// Each line is {fresh?, options?, code?}: `fresh` begins a new context; `code` runs with `page`.
import { createInterface } from "node:readline";

const { chromium } = await import(process.env.PLAYWRIGHT);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: process.env.FLAGS.split(" ") });
const AsyncFunction = (async () => {}).constructor;
let context = null;
let page = null;
const seen = [];

async function fresh(options) {
  await context?.close();
  seen.length = 0;
  context = await browser.newContext(options);
  context.setDefaultTimeout(20_000);
  page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && seen.push(message.text()));
  page.on("pageerror", (error) => seen.push(String(error)));
}

for await (const line of createInterface({ input: process.stdin })) {
  const { options, code } = JSON.parse(line);
  let answer;
  try {
    if (options) await fresh(options);
    const told = code ? await new AsyncFunction("page", "context", "seen", code)(page, context, seen) : null;
    answer = { told: told ?? null };
  } catch (error) {
    answer = { failure: String(error.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
await browser.close();
