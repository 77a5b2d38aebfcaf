// One question to the server until its answer has ended, whichever way.

import { ApiError, postJson } from "./api.js";
import { shownSeconds } from "./formats.js";
import { events } from "./stream.js";

const LOADING_TRIES = 60;
const WAIT_S = 2;

/** Fill `turn` with the answer. `signal` stops it. True if the answer is whole. */
export async function answer(turn, body, signal) {
  try {
    const response = await whenLoaded(turn, body, signal);
    for await (const frame of events(response.body)) {
      if (frame.event === "error") throw new ApiError(frame.data.error);
      turn.take(frame);
    }
    if (turn.done) return true;
    throw new ApiError({ code: "cut", message: "", retryable: true });
  } catch (error) {
    turn.fail(signal.aborted ? new ApiError({ code: "stopped", message: "" }) : known(error));
    return false;
  }
}

async function whenLoaded(turn, body, signal) {
  for (let tries = 1; ; tries++) {
    try {
      return await postJson("query/stream", body, { signal });
    } catch (error) {
      if (error.code !== "loading" || tries >= LOADING_TRIES) throw error;
      const wait_s = error.retryAfterS ?? WAIT_S;
      turn.say(`The server is loading${await whatLoads()}. Asking again in ${shownSeconds(wait_s)} …`);
      await pause(wait_s, signal);
    }
  }
}

/** ": models, index" from the health check, empty where it does not tell. */
async function whatLoads() {
  const response = await fetch("health/ready").catch(() => null);
  const { checks = {} } = (await response?.json().catch(() => null)) ?? {};
  const missing = ["models", "index"].filter((name) => checks[name] && checks[name].status !== "ok");
  return missing.length > 0 ? ` (${missing.join(", ")})` : "";
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, seconds * 1000);
    signal.addEventListener("abort", stop, { once: true });
  });
}

/** A connection that breaks while the body is read throws the browser's own errors. */
function known(error) {
  if (error instanceof ApiError) return error;
  if (error instanceof TypeError) return new ApiError({ code: "cut", message: "", retryable: true });
  console.error(error);
  return new ApiError({ code: "page", message: String(error.message) });
}
