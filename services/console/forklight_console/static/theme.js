// The chosen theme, set before anything is drawn; without a choice the system's preference counts (console.css).
"use strict";

const THEME_KEY = "forklight-theme";

function chosenTheme() {
  try { return localStorage.getItem(THEME_KEY) || ""; } catch { return ""; }
}

function shownTheme() {
  return document.documentElement.dataset.theme
    || (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");
}

function switchTheme() {
  const theme = shownTheme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem(THEME_KEY, theme); } catch { /* private mode: for this page only */ }
  document.dispatchEvent(new CustomEvent("themechange"));
}

if (chosenTheme()) document.documentElement.dataset.theme = chosenTheme();
document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  if (!button) return;
  button.hidden = false;
  button.addEventListener("click", switchTheme);
});
matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => {
  document.dispatchEvent(new CustomEvent("themechange"));
});
