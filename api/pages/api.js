// Requests to the API that served this page, and their errors as values.

import { askForKey, currentKey } from "./keys.js";

export class ApiError extends Error {
  constructor({ code, message, request_id = "", retryable = false }, { status = 0, retryAfterS = null } = {}) {
    super(message);
    Object.assign(this, { code, status, retryable, retryAfterS, requestId: request_id });
  }
}

/** The response of a request that went well. Throws ApiError; asks for a key where one is wanted. */
export async function send(path, { method = "GET", body, headers = {}, signal } = {}) {
  for (;;) {
    const key = currentKey();
    const response = await reach(path, {
      method,
      body,
      signal,
      headers: key ? { ...headers, "X-API-Key": key } : headers,
    });
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status !== 401) throw error;
    const given = await askForKey(key ? "The server does not accept this key." : "This server wants a key.");
    if (!given) throw error;
  }
}

export async function getJson(path, options = {}) {
  return (await send(path, options)).json();
}

export function postJson(path, body, options = {}) {
  const headers = { ...options.headers, "Content-Type": "application/json" };
  return send(path, { ...options, method: "POST", body: JSON.stringify(body), headers });
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({ code: "unreachable", message: "The server cannot be reached.", retryable: true });
  }
}

async function errorOf(response) {
  const { status } = response;
  const retryAfter = Number(response.headers.get("Retry-After"));
  const facts = { status, retryAfterS: retryAfter > 0 ? retryAfter : null };
  const body = await response.json().catch(() => null);
  return new ApiError(body?.error ?? { code: `http_${status}`, message: `HTTP ${status}` }, facts);
}
