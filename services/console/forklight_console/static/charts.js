// One chart over uPlot: lines, a stack, legend with the values under the cursor, colours from the theme.
"use strict";

const NUM_COLOURS = 8;
const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const seriesColour = (index) => cssColour(`--series-${(index % NUM_COLOURS) + 1}`);

function formatNumber(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "-";
  const size = Math.abs(value);
  if (size >= 1e9) return `${Number((value / 1e9).toPrecision(3))}G`;
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  if (size && size < 1e-3) return value.toExponential(1);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}

// Names without the start that all of them share: pods of one workload differ at their end.
function shortLabels(labels) {
  if (labels.length < 3) return labels;
  let shared = 0;
  while (labels.every((label) => label.length > shared + 4 && label[shared] === labels[0][shared])) shared += 1;
  return shared > 8 ? labels.map((label) => label.slice(shared)) : labels;
}

function stacked(columns) {
  const sums = columns[0] ? columns[0].map(() => 0) : [];
  return columns.map((column) => column.map((value, i) => {
    if (value === null && sums[i] === 0) return null;
    sums[i] += value || 0;
    return sums[i];
  }));
}

function clockTimes(plot, splits) {
  return splits.map((at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false }));
}

class Chart {
  // `figure` has .keys and .plot; `options`: shape, marks, isTime, sync, onSelect(low, high).
  constructor(figure, options) {
    this.figure = figure;
    this.options = options;
    this.plotElement = figure.querySelector(".plot");
    this.keys = figure.querySelector(".keys");
    this.labels = [];
    this.x = [];
    this.columns = [];
    this.means = [];
    this.plot = null;
    new ResizeObserver(() => this.resize()).observe(this.plotElement);
    document.addEventListener("themechange", () => this.build());
  }

  // `means`, where there are any, are drawn over the columns, which stay behind them as a faint range.
  setData(labels, x, columns, means = []) {
    const isOther = labels.join("\n") !== this.labels.join("\n") || !this.plot || means.length !== this.means.length;
    [this.labels, this.x, this.columns, this.means] = [labels, x, columns, means];
    const isEmpty = !x.length || columns.every((column) => column.every((value) => value === null));
    if (isEmpty) return this.showNothing();
    if (isOther) this.build();
    else this.plot.setData(this.drawn());
    this.showValues(null);
    return undefined;
  }

  drawn() {
    const columns = this.options.shape === "stack" ? stacked(this.columns).reverse() : this.columns;
    return [this.x, ...columns, ...this.means];
  }

  build() {
    if (!this.x.length || !this.columns.length) return;
    if (this.plot) this.plot.destroy();
    this.plotElement.replaceChildren();
    this.plot = new uPlot(this.plotOptions(), this.drawn(), this.plotElement);
    this.buildKeys();
    this.showValues(null);
  }

  plotOptions() {
    const { isTime, sync, onSelect } = this.options;
    const axis = {
      stroke: cssColour("--muted"), font: "11px system-ui, sans-serif",
      grid: { stroke: cssColour("--line"), width: 0.5 }, ticks: { show: false },
    };
    return {
      width: this.plotElement.clientWidth || 300, height: this.plotElement.clientHeight || 150,
      padding: [6, 16, 0, 0],
      legend: { show: false },
      scales: { x: { time: Boolean(isTime) }, y: { range: (u, low, high) => this.yRange(low, high) } },
      cursor: {
        points: { size: 5 }, y: false, sync: sync ? { key: sync } : undefined,
        drag: { x: Boolean(onSelect), y: false, setScale: false },
      },
      axes: [
        { ...axis, size: 22, gap: 3, space: 60, values: isTime ? clockTimes : (u, splits) => splits.map(formatNumber) },
        { ...axis, size: 46, gap: 4, space: 26, values: (u, splits) => splits.map(formatNumber) },
      ],
      series: [{}, ...this.seriesOptions()],
      hooks: {
        setCursor: [(u) => this.showValues(u.cursor.idx)],
        setSelect: [(u) => this.select(u)],
        draw: [(u) => this.drawMarks(u)],
      },
    };
  }

  seriesOptions() {
    const isStack = this.options.shape === "stack";
    const options = this.labels.map((label, i) => ({
      label, stroke: this.means.length ? `${seriesColour(i)}59` : seriesColour(i), width: 1.25, spanGaps: true,
      points: { show: this.x.length < 40, size: 4 },
      fill: isStack ? seriesColour(i) : undefined,
    }));
    const means = this.means.map((_, i) => ({
      stroke: seriesColour(i), width: 1.5, spanGaps: true, points: { show: false },
    }));
    return isStack ? options.reverse() : [...options, ...means];
  }

  yRange(low, high) {
    if (low === null || high === null) return [0, 1];
    if (this.options.shape === "stack") return [0, high * 1.05 || 1];
    if (low === high) return [low - (Math.abs(low) * 0.1 || 1), high + (Math.abs(high) * 0.1 || 1)];
    const pad = (high - low) * 0.06;
    return [low >= 0 && low - pad < 0 ? 0 : low - pad, high + pad];
  }

  buildKeys() {
    this.values = this.labels.map(() => document.createElement("em"));
    this.keys.replaceChildren(...this.labels.map((label, i) => {
      const key = document.createElement("span");
      const swatch = document.createElement("i");
      swatch.style.background = seriesColour(i);
      key.title = label;
      key.append(swatch, label.length > 28 ? `${label.slice(0, 12)}...${label.slice(-13)}` : label, this.values[i]);
      return key;
    }));
  }

  showValues(index) {
    if (!this.values) return;
    const shown = this.means.length ? this.means : this.columns;
    shown.forEach((column, i) => {
      const at = index === null || index === undefined ? column.findLastIndex((value) => value !== null) : index;
      this.values[i].textContent = formatNumber(column[at]);
    });
  }

  showNothing() {
    if (this.plot) this.plot.destroy();
    this.plot = null;
    this.labels = [];
    this.keys.replaceChildren();
    const none = document.createElement("span");
    none.className = "none";
    none.textContent = "no data yet";
    this.plotElement.replaceChildren(none);
  }

  select(plot) {
    if (plot.select.width < 4 || !this.options.onSelect) return;
    const low = plot.posToVal(plot.select.left, "x");
    const high = plot.posToVal(plot.select.left + plot.select.width, "x");
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.options.onSelect(low, high);
  }

  drawMarks(plot) {
    for (const [value, name] of this.options.marks || []) {
      const y = plot.valToPos(value, "y", true);
      if (y < plot.bbox.top || y > plot.bbox.top + plot.bbox.height) continue;
      const context = plot.ctx;
      context.save();
      context.strokeStyle = context.fillStyle = cssColour("--bad");
      context.setLineDash([4, 3]);
      context.beginPath();
      context.moveTo(plot.bbox.left, y);
      context.lineTo(plot.bbox.left + plot.bbox.width, y);
      context.stroke();
      context.fillText(name, plot.bbox.left + 4, y - 3);
      context.restore();
    }
  }

  resize() {
    const { clientWidth, clientHeight } = this.plotElement;
    if (this.plot && clientWidth) this.plot.setSize({ width: clientWidth, height: clientHeight });
  }
}
