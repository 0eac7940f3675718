// Calls to the gateway that has served this page.

/** The address of a path of the gateway, also where a proxy serves it below a path of its own. */
export const address = (path) => new URL(path, location.href.split("#")[0]).href;

/** An error of the gateway's, or of the way there. `status` is 0 where there was no answer. */
export class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** fetch, with the key if there is one. Throws Refused for what is no success. */
export async function call(path, key, options = {}) {
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(address(path), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The gateway does not answer.");
  }
  if (!response.ok) throw new Refused(await why(response), response.status);
  return response;
}

async function why(response) {
  const again = response.headers.get("retry-after");
  const body = await response.json().catch(() => null);
  return told(body?.error, response.status) + (again ? ` Try again in ${again} s.` : "");
}

/** An error object of OpenAI's as one line. */
export function told(error, status = 0) {
  const kind = [status || null, error?.code].filter(Boolean).join(" ");
  return [kind, error?.message || "There is no more to say of it."].filter(Boolean).join(": ");
}
