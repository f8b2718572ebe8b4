// A response of any length: a map of all of it, and a window of tokens that is fetched from the server.
"use strict";

const response = document.getElementById("response");
const canvas = document.getElementById("map");
const modeNames = ["probability", "advantage", "version", "none"];
const SERIES = 6;
let whole = null;
let asked = 0;

const tokens = () => document.getElementById("tokens");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function setMode(mode) {
  response.dataset.mode = mode;
  const input = document.querySelector(`#modes input[value="${mode}"]`);
  if (input) input.checked = true;
  try { sessionStorage.setItem("forklight-mode", mode); } catch { /* for this page only */ }
  draw();
}

function bucketColour(at, total) {
  const token = (at / total) * whole.num_tokens;
  if (response.dataset.mode === "version") {
    let rank = 0;
    for (const [start, , order] of whole.spans) if (start <= token) rank = order;
    return colour(`--series-${(rank % SERIES) + 1}`);
  }
  const advantage = Number(response.dataset.advantage);
  if (response.dataset.mode === "advantage" && advantage) return colour(advantage < 0 ? "--bad" : "--good");
  return colour("--accent");
}

function draw() {
  if (!whole || !canvas) return;
  canvas.hidden = false;
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const total = whole.mean.length;
  const step = width / total;
  const least = colour("--bad");
  for (let at = 0; at < total; at += 1) {
    if (whole.mean[at] === null) {
      pen.fillStyle = colour("--line");
      pen.fillRect(at * step, height - 6, Math.max(step, 1), 6);
      continue;
    }
    pen.fillStyle = bucketColour(at, total);
    pen.globalAlpha = 0.55;
    const tall = whole.mean[at] * (height - 4);
    pen.fillRect(at * step, height - tall, Math.max(step, 1), tall);
    pen.globalAlpha = 1;
    pen.fillStyle = least;
    pen.fillRect(at * step, height - whole.least[at] * (height - 4) - 1, Math.max(step, 1), 1.5);
  }
  const start = (Number(tokens().dataset.start) / whole.num_tokens) * width;
  const stop = (Number(tokens().dataset.stop) / whole.num_tokens) * width;
  pen.strokeStyle = colour("--text");
  pen.lineWidth = 1.5;
  pen.strokeRect(start + 0.75, 0.75, Math.max(3, stop - start - 1.5), height - 1.5);
}

async function go(start) {
  const mine = ++asked;
  const place = Math.max(0, Math.floor(start));
  const answer = await fetch(`${response.dataset.path}/window?start=${place}`);
  if (!answer.ok || mine !== asked) { if (!answer.ok) location.search = `?start=${place}`; return; }
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("tokens");
  tokens().replaceWith(fresh);
  const first = Number(fresh.dataset.start);
  const last = Number(fresh.dataset.stop);
  const total = Number(fresh.dataset.total);
  document.getElementById("place").textContent =
    `tokens ${first.toLocaleString("en")} to ${(last - 1).toLocaleString("en")} of ${total.toLocaleString("en")}`;
  link("previous", "Earlier", first > 0 ? Math.max(0, first - (last - first || 1)) : null);
  link("following", "Later", last < total ? last : null);
  history.replaceState(null, "", `?start=${first}`);
  draw();
}

function link(id, text, start) {
  let found = document.getElementById(id);
  if (start === null) { found?.remove(); return; }
  if (!found) {
    found = document.createElement("a");
    found.id = id;
    found.textContent = text;
    document.getElementById("pointed").before(found);
  }
  found.href = `?start=${start}#response`;
}

response?.addEventListener("click", (event) => {
  const target = event.target.closest("a");
  const start = target && new URLSearchParams(target.search).get("start");
  if (target && target.pathname === location.pathname && start !== null) { event.preventDefault(); go(Number(start)); }
});
response?.addEventListener("pointerover", (event) => {
  const token = event.target.closest("#tokens i");
  if (token) document.getElementById("pointed").textContent = token.title;
});
canvas?.addEventListener("click", (event) => {
  const share = event.offsetX / canvas.clientWidth;
  const size = Number(tokens().dataset.stop) - Number(tokens().dataset.start);
  go(share * whole.num_tokens - size / 2);
});
document.addEventListener("keydown", (event) => {
  if (typing(event)) return;
  if (event.key === "c") setMode(modeNames[(modeNames.indexOf(response.dataset.mode) + 1) % modeNames.length]);
  else if (event.key === "[") document.getElementById("previous")?.click();
  else if (event.key === "]") document.getElementById("following")?.click();
});

async function start() {
  const modes = document.getElementById("modes");
  if (!modes || !tokens()) return;
  modes.hidden = false;
  modes.addEventListener("change", (event) => setMode(event.target.value));
  let mode = null;
  try { mode = sessionStorage.getItem("forklight-mode"); } catch { /* no memory */ }
  if (modeNames.includes(mode)) setMode(mode);
  const answer = await fetch(`${response.dataset.path}/map`);
  if (!answer.ok) return;
  whole = await answer.json();
  draw();
}

document.addEventListener("themechange", draw);
window.addEventListener("resize", draw);
start();
