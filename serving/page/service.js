/* What the page asks of the service. */

/** An answer that is no result: a code for programs, and a message for people. */
export class ServiceError extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

/** Describe the model: name, k, limits, and whether a key is needed. */
export async function describe(key) {
  return (await ask("v1/model", { headers: authorization(key) })).json();
}

/** Restore a picture; `signal` cancels. Resolves with the file, its notices, and the seconds that the service took. */
export async function restore(picture, { k, format }, key, signal) {
  const body = new FormData();
  body.append("image", picture, picture.name);
  const answer = await ask(address(k, format), { method: "POST", body, headers: authorization(key), signal });
  return {
    file: await received(answer),
    notices: listed(answer.headers.get("X-Keygraph-Notices")),
    seconds: Number(answer.headers.get("X-Keygraph-Seconds")),
  };
}

/** The address of a request, relative to the page. */
export function address(k, format) {
  const query = new URLSearchParams();
  if (k !== null) query.set("k", k);
  if (format) query.set("format", format);
  return ["v1/restore", String(query)].filter(Boolean).join("?");
}

function authorization(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function ask(url, options) {
  let answer;
  try {
    answer = await fetch(url, { cache: "no-store", ...options });
  } catch (error) {
    throw unanswered(error);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function received(answer) {
  try {
    return await answer.blob();
  } catch (error) {
    throw unanswered(error);
  }
}

function unanswered(error) {
  if (error.name === "AbortError") return error;
  return new ServiceError(0, "unreachable", "The service does not answer. See that it is running and reachable, then try again.");
}

async function refusal(answer) {
  let error = {};
  try {
    error = (await answer.json()).error ?? {};
  } catch { /* a proxy's answer, say, which is not JSON */ }
  const message = error.message ?? `The service answered ${answer.status} ${answer.statusText}`.trim() + ".";
  return new ServiceError(answer.status, error.code ?? String(answer.status), message);
}

function listed(header) {
  try {
    return JSON.parse(header ?? "[]");
  } catch {
    return [header];
  }
}
