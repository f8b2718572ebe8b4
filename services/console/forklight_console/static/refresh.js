// Draws the page anew every two seconds, in place; says so when the console does not answer.
"use strict";

const EVERY_MS = 2000;

async function refresh() {
  const stale = document.getElementById("stale");
  try {
    const response = await fetch("/", { signal: AbortSignal.timeout(EVERY_MS * 4) });
    if (!response.ok) throw new Error(String(response.status));
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    const main = fresh.querySelector("main");
    if (!document.getSelection().toString()) document.querySelector("main").replaceWith(main);
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
  setTimeout(refresh, EVERY_MS);
}

setTimeout(refresh, EVERY_MS);
