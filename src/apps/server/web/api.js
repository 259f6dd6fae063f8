// Owns the talk with the server: the key, JSON requests, event streams and pictures. See docs/api.md.
import { parseJson } from "./json.js";

const kKeyName = "nostos.key";
const kRetryMs = 1000;

/** An answer that is no success, in the server's words; status 0 where none came. */
export class ApiError extends Error {
  constructor(status, message, { param = null, code = null } = {}) {
    super(message);
    Object.assign(this, { status, param, code });
  }
}

const key = () => sessionStorage.getItem(kKeyName);

export const hasKey = () => key() !== null;

/** Keeps the key for this tab. */
export const setKey = (value) => sessionStorage.setItem(kKeyName, value);

async function failure(response) {
  const retry = response.headers.get("Retry-After");
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // A proxy in between may answer with a page of its own.
  }
  let message = error?.message ?? `The server answered ${response.status} ${response.statusText}`.trim();
  if (response.status === 503 && retry) message += ` Try again in ${retry} s.`;
  return new ApiError(response.status, message, error ?? {});
}

async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (key()) headers.Authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer.");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

/** @returns the JSON answer. @throws {ApiError} */
export async function request(path, options) {
  return parseJson(await (await send(path, options)).text());
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Accepts a job exactly once, though the line may break: a repeated request carries the same idempotency key. */
export async function submit(settings) {
  const random = crypto.getRandomValues(new Uint32Array(4));
  const options = {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": `page-${random.join("-")}` },
    body: JSON.stringify(settings),
  };
  for (let attempt = 1; ; ++attempt) {
    try {
      return await request("v1/jobs", options);
    } catch (error) {
      if (error.status !== 0 || attempt === 3) throw error;
      await pause(kRetryMs * attempt);
    }
  }
}

/** Calls on_event(name, data) for each event of the job until the stream ends or the signal aborts. */
export async function follow(id, signal, onEvent) {
  // EventSource cannot send the key.
  const response = await send(`v1/jobs/${id}/events`, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (let part; !(part = await reader.read()).done;) {
    const blocks = (pending + part.value).split("\n\n");
    pending = blocks.pop();
    for (const block of blocks) {
      const name = block.match(/^event: ?(.*)$/m)?.[1];
      const data = block.match(/^data: ?(.*)$/m)?.[1];
      if (name && data) onEvent(name, parseJson(data));
    }
  }
}

const blobs = new Map();
const pathOf = (image) => image.url.replace(/^\//, "");

/** @returns a URL for <img>, which cannot send the key: where there is one, that of a copy in memory. */
export async function imageUrl(image) {
  const path = pathOf(image);
  if (!key()) return path;
  if (!blobs.has(path)) blobs.set(path, send(path).then((response) => response.blob()).then(URL.createObjectURL));
  try {
    return await blobs.get(path);
  } catch (error) {
    blobs.delete(path);
    throw error;
  }
}

/** Frees the copy of a picture that is shown no more. */
export function forgetImage(image) {
  const path = pathOf(image);
  blobs.get(path)?.then(URL.revokeObjectURL, () => {});
  blobs.delete(path);
}
