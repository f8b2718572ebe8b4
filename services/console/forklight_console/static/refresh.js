// Draws the parts of a page that are marked with data-live (each needs an id) anew, in place, every
// `data-live` milliseconds; says so when the console does not answer.
"use strict";

const liveParts = () => [...document.querySelectorAll("[data-live]")];
const everyMs = Math.min(...liveParts().map((part) => Number(part.dataset.live) || 2000));

async function refresh() {
  const stale = document.getElementById("stale");
  try {
    const response = await fetch(location.href, { signal: AbortSignal.timeout(everyMs * 4) });
    if (response.status === 401) return location.reload();
    if (response.redirected && new URL(response.url).pathname === "/login") return location.reload();
    if (!response.ok) throw new Error(String(response.status));
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const part of liveParts()) {
      const next = fresh.getElementById(part.id);
      if (next && !part.contains(document.activeElement) && !document.getSelection().toString()) part.replaceWith(next);
    }
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
  setTimeout(whenVisible, everyMs);
  return undefined;
}

function whenVisible() {
  if (!document.hidden) refresh();
  else document.addEventListener("visibilitychange", whenVisible, { once: true });
}

if (liveParts().length) setTimeout(whenVisible, everyMs);
