// The charts of the overview: each source is asked for what is new, and draws the figures that need it.
"use strict";

const EVERY_MS = 3000;
const ADDRESSES = { steps: "/api/series", live: "/api/series/live", rounds: "/api/series/rounds" };

class Source {
  constructor(name, figures) {
    this.name = name;
    this.charts = figures.map((figure) => {
      const spec = JSON.parse(figure.dataset.chart);
      const chart = new Chart(figure, {
        shape: spec.shape, marks: spec.marks, isTime: name === "live",
        sync: name === "rounds" ? undefined : name,
        onSelect: name === "steps" ? (low, high) => zoom(Math.ceil(low), Math.floor(high)) : undefined,
      });
      return { spec, chart };
    });
    this.fields = [...new Set(this.charts.flatMap(({ spec }) => spec.lines.map((line) => line.field)))];
    this.forget();
  }

  forget() {
    this.have = "";
    this.range = {};
    this.x = [];
    this.values = {};
    this.means = {};
    this.bucket = 1;
  }

  async poll() {
    const query = new URLSearchParams({ fields: this.fields.join(","), points: "1000" });
    if (this.have) query.set("have", this.have);
    for (const [name, value] of Object.entries(this.range)) query.set(name, value);
    const response = await fetch(`${ADDRESSES[this.name]}?${query}`, { signal: AbortSignal.timeout(EVERY_MS * 4) });
    if (response.status === 401) location.reload();
    if (!response.ok) throw new Error(String(response.status));
    this.merge(await response.json());
    this.draw();
  }

  merge(answer) {
    this.have = [answer.bucket, answer.generation, answer.full_buckets].join(",");
    if ("low" in this.range) this.have = "";
    this.bucket = answer.bucket;
    this.x.length = Math.min(this.x.length, answer.start_slot);
    this.x.push(...answer.x);
    const names = new Set([...Object.keys(this.values), ...Object.keys(answer.values)]);
    for (const name of names) {
      const column = (this.values[name] || []).slice(0, answer.start_slot);
      while (column.length < answer.start_slot) column.push(null);
      column.push(...(answer.values[name] || answer.x.map(() => null)));
      this.values[name] = column;
    }
    const startBucket = answer.start_slot / 2;
    for (const name of Object.keys(answer.means)) {
      this.means[name] = [...(this.means[name] || []).slice(0, startBucket), ...answer.means[name]];
    }
    this.lastStep = answer.last_step;
  }

  draw() {
    for (const { spec, chart } of this.charts) {
      const lines = spec.lines.flatMap((line) => this.expand(line)).filter(([, name]) => this.hasValues(name));
      chart.setData(
        shortLabels(lines.map(([label]) => label)), this.x, lines.map(([, name]) => this.values[name]),
        this.bucket > 1 && spec.shape !== "stack" ? lines.map(([, name]) => this.meanLine(name)) : []);
    }
  }

  meanLine(name) {
    const means = this.means[name] || [];
    return this.x.map((_, slot) => means[slot >> 1] ?? null);
  }

  expand(line) {
    if (!line.field.endsWith("*")) return [[line.label, line.field]];
    const start = line.field.slice(0, -1);
    const names = Object.keys(this.values).filter((name) => name.startsWith(start));
    return names.map((name) => [line.label + name.slice(start.length), name]);
  }

  hasValues(name) {
    return (this.values[name] || []).some((value) => value !== null);
  }
}

const figures = [...document.querySelectorAll("figure[data-chart]")];
const sources = Object.keys(ADDRESSES).map((name) => new Source(
  name, figures.filter((figure) => JSON.parse(figure.dataset.chart).source === name)));

async function pollAll() {
  const results = await Promise.allSettled(sources.map((source) => source.poll()));
  if (results.some((result) => result.status === "rejected")) document.getElementById("stale").hidden = false;
  document.body.dataset.charts = "drawn";
}

function keepPolling() {
  const next = () => setTimeout(keepPolling, EVERY_MS);
  if (document.hidden) document.addEventListener("visibilitychange", keepPolling, { once: true });
  else pollAll().finally(next);
}

const ranges = document.getElementById("ranges");
const rangeText = document.getElementById("range");

async function zoom(low, high) {
  const steps = sources.find((source) => source.name === "steps");
  steps.forget();
  if (low !== undefined) steps.range.low = low;
  if (high !== undefined) steps.range.high = high;
  rangeText.textContent = low === undefined ? "drag over a chart to look closer"
    : `${low} to ${high === undefined ? "the newest" : high} (all: back)`;
  for (const button of ranges.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(low === undefined && button.dataset.last === "0"));
  }
  await steps.poll();
}

ranges.hidden = false;
ranges.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const last = Number(button.dataset.last);
  const steps = sources.find((source) => source.name === "steps");
  await zoom(last ? Math.max(1, (steps.lastStep || 0) - last + 1) : undefined);
  for (const each of ranges.querySelectorAll("button")) each.setAttribute("aria-pressed", String(each === button));
});
keepPolling();
