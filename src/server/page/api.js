/* api.js - the server, as the page calls it: the model list and streamed chat completions over fetch.
 *
 * Whatever goes wrong comes out as one ApiError that says what a person can do about it. Paths are relative, so the page
 * also works behind a proxy that serves it below a prefix.
 */
"use strict";

/* kind: "api" (the server said no), "network" (no connection), "cut" (it broke off), "stop" (the user). */
class ApiError extends Error {
  constructor(kind, message, {status = 0, code = null} = {}) {
    super(message);
    Object.assign(this, {kind, status, code});
  }

  get needsKey() { return this.status === 401; }
  get isPassing() { return this.kind !== "stop" && (this.kind !== "api" || this.status === 429 || this.status >= 500); }
}

/* The key lives as long as the tab. */
const apiKey = {
  get: () => sessionStorage.getItem("sluice.key") ?? "",
  set: (key) => (key ? sessionStorage.setItem("sluice.key", key) : sessionStorage.removeItem("sluice.key")),
};

function errorOf(body, status) {
  const error = body?.error ?? {};
  const message = typeof error.message === "string" ? error.message : `The server answered with status ${status}.`;
  return new ApiError("api", message, {status, code: error.code ?? null});
}

async function callApi(path, body, signal) {
  const headers = {};
  if (apiKey.get()) headers.Authorization = "Bearer " + apiKey.get();
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    const method = body ? "POST" : "GET";
    response = await fetch(path, {method, headers, body: body && JSON.stringify(body), signal, cache: "no-store"});
  } catch (error) {
    if (signal?.aborted) throw new ApiError("stop", "Stopped.");
    throw new ApiError("network", "The server cannot be reached.");
  }
  if (response.ok) return response;
  throw errorOf(await response.json().catch(() => null), response.status);
}

async function fetchModels() {
  const response = await callApi("v1/models");
  const {data} = await response.json().catch(() => ({}));
  if (!Array.isArray(data)) throw new ApiError("api", "The server sent no list of models.");
  return data;
}

/* The data of each server-sent event in a stream of bytes. Comments, which keep the connection alive, are skipped. */
async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const {value, done} = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines)
        if (line.startsWith("data:")) yield line.slice(5).trimStart();
    }
  } finally {
    reader.cancel().catch(() => {}); /* the consumer has left: the server frees the request */
  }
}

/* The chunks of a streamed chat completion. Ends after [DONE]; a stream that ends without it has been cut off. */
async function* streamChat(body, signal) {
  const response = await callApi("v1/chat/completions", {...body, stream: true}, signal);
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw errorOf(chunk, 500);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError) throw error;
    if (error instanceof SyntaxError) throw new ApiError("cut", "The server sent something that is not JSON.");
  }
  if (signal.aborted) throw new ApiError("stop", "Stopped.");
  throw new ApiError("cut", "The connection was lost before the answer was complete.");
}
