// Rows by keyboard (j, k, Enter), the next page (n), neighbours of a sample (h, l).
"use strict";

function typing(event) {
  return event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, [contenteditable], dialog[open]") !== null;
}

const rows = [...document.querySelectorAll("#hits tbody tr")];
let chosen = -1;

function choose(at) {
  if (!rows.length) return;
  if (chosen >= 0) rows[chosen].classList.remove("chosen");
  chosen = Math.max(0, Math.min(rows.length - 1, at));
  rows[chosen].classList.add("chosen");
  rows[chosen].scrollIntoView({ block: "nearest" });
  rows[chosen].querySelector("a").focus({ preventScroll: true });
}

function neighbour(step) {
  const links = [...document.querySelectorAll(".siblings a")];
  const here = links.findIndex((link) => link.hasAttribute("aria-current"));
  if (here >= 0 && links[here + step]) links[here + step].click();
}

document.addEventListener("keydown", (event) => {
  if (typing(event)) return;
  if (event.key === "j") choose(chosen + 1);
  else if (event.key === "k") choose(chosen - 1);
  else if (event.key === "n") document.getElementById("next")?.click();
  else if (event.key === "h") neighbour(-1);
  else if (event.key === "l") neighbour(1);
});
