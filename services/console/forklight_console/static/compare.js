// Curves of the chosen runs over each other: each run is asked for once, its points are joined on one axis.
"use strict";

const curves = document.getElementById("curves");

async function fetchRun(name, fields) {
  const query = new URLSearchParams({ fields: fields.join(","), points: "600", by: curves.dataset.by });
  const response = await fetch(`/api/compare/${encodeURIComponent(name)}/series?${query}`);
  if (!response.ok) throw new Error(String(response.status));
  return response.json();
}

// Points of a run: means where the steps were thinned, the steps themselves where they were not.
function pointsOf(answer, field) {
  if (answer.bucket === 1) return [answer.x, answer.values[field] || []];
  const means = answer.means[field] || [];
  return [means.map((_, i) => answer.x[Math.min(2 * i + 1, answer.x.length - 1)]), means];
}

async function drawCurves() {
  const names = JSON.parse(curves.dataset.runs);
  const figures = [...curves.querySelectorAll("figure")];
  const answers = await Promise.all(names.map((name) => fetchRun(name, figures.map((each) => each.dataset.field))));
  for (const figure of figures) {
    const tables = answers.map((answer) => pointsOf(answer, figure.dataset.field));
    const [x, ...columns] = uPlot.join(tables);
    const chart = new Chart(figure, { sync: "runs" });
    chart.setData(shortLabels(names), x, columns.map((column) => column.map((value) => value ?? null)));
  }
  document.body.dataset.charts = "drawn";
}

if (curves) drawCurves().catch(() => { document.getElementById("stale").hidden = false; });
