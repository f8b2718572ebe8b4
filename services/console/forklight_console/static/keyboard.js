// g and a letter go to a page, / to the first search field, t switches the theme, ? shows the help.
"use strict";

const SECOND_KEY_MS = 1200;
let firstKeyAt = 0;

function isTyping(target) {
  return target.closest("input, textarea, select, [contenteditable]") !== null;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  const help = document.getElementById("help");
  if (Date.now() - firstKeyAt < SECOND_KEY_MS) {
    firstKeyAt = 0;
    const link = document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
    if (link) { event.preventDefault(); link.click(); }
    return;
  }
  if (event.key === "g") firstKeyAt = Date.now();
  else if (event.key === "?") { event.preventDefault(); if (!help.open) help.showModal(); }
  else if (event.key === "t") switchTheme();
  else if (event.key === "/") {
    const field = document.querySelector("main input[type=search], main input[type=text]");
    if (field) { event.preventDefault(); field.focus(); }
  }
}

document.addEventListener("keydown", onKey);
const keysButton = document.getElementById("keys");
keysButton.hidden = false;
keysButton.addEventListener("click", () => document.getElementById("help").showModal());
