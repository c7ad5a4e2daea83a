"use strict";
// Tables sort and filter in place; the plots are drawn from the JSON in #data. Texts are only ever set as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const COSTS = ["LLM calls", "LLM tokens, prompt and output", "seconds of work", "US dollars"];
  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 4", "6 2 1 2"];
  const SVG = "http://www.w3.org/2000/svg";

  function element(name, attributes = {}, ...children) {
    const made = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  const svg = (name, attributes, ...children) => element(`svg:${name}`, attributes, ...children);
  const text = (x, y, said, attributes = {}) => svg("text", { x, y, ...attributes }, String(said));
  const minus = (said) => said.replace("-", "\u2212");
  const fixed = (value, digits = 4) => (value == null ? "\u2013" : minus(value.toFixed(digits)));
  const signed = (value, digits = 4) => (value > 0 ? "+" : "") + fixed(value, digits);
  const short = (value) => {
    for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (value >= unit) return `${+(value / unit).toPrecision(3)}${name}`;
    return String(+value.toPrecision(3));
  };
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const clipped = (said, length) => (said.length > length ? `${said.slice(0, length - 1)}\u2026` : said);

  // Theme ---------------------------------------------------------------------------------------------------------------

  for (const button of $$("[data-theme-set]")) {
    button.addEventListener("click", () => {
      const theme = button.dataset.themeSet;
      if (theme) document.documentElement.dataset.theme = theme;
      else delete document.documentElement.dataset.theme;
      for (const other of $$("[data-theme-set]")) other.setAttribute("aria-pressed", String(other === button));
    });
  }

  // Tables --------------------------------------------------------------------------------------------------------------

  const valueOf = (cell) => (cell.dataset.v !== undefined ? Number(cell.dataset.v) : cell.textContent.trim());
  const isMissing = (value) => value === "" || value === "\u2013";

  function sort(table, column, direction) {
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[column]), row]);
    const order = ([a], [b]) => {
      if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b); // what is missing stays last
      const by = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
      return direction === "ascending" ? by : -by;
    };
    table.tBodies[0].append(...rows.sort(order).map(([, row]) => row));
    for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
    table.tHead.rows[0].cells[column].setAttribute("aria-sort", direction);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".sort");
    if (!button) return;
    const head = button.parentElement;
    const now = head.getAttribute("aria-sort");
    const first = head.classList.contains("n") && button.textContent !== "#" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    sort(head.closest("table"), head.cellIndex, now === first ? other : first);
  });

  /** Words that must all occur, and conditions such as nDCG@10>0.5 on a column's number. */
  function conditions(table, said) {
    const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent.toLowerCase());
    return said.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const found = word.replace("\u2212", "-").match(/^(.+?)(>=|<=|>|<|=)(-?\d*\.?\d+)$/);
      const column = found ? heads.findIndex((head) => head === found[1] || head.replace(/\s/g, "") === found[1]) : -1;
      if (column < 0) return (row) => (row.said ??= row.textContent.toLowerCase()).includes(word);
      const than = Number(found[3]);
      return (row) => {
        const value = valueOf(row.cells[column]);
        if (typeof value !== "number") return false;
        return { ">": value > than, "<": value < than, ">=": value >= than, "<=": value <= than, "=": value === than }[found[2]];
      };
    });
  }

  function filter(id) {
    const table = document.getElementById(id);
    const input = $(`[data-filter="${id}"]`);
    const asked = conditions(table, input.value);
    if (id === "results") {
      for (const facet of $$("[data-facet]")) {
        if (facet.value) asked.push((row) => row.dataset[facet.dataset.facet] === facet.value);
      }
    }
    let shown = 0;
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      row.hidden = !asked.every((holds) => holds(row));
      shown += !row.hidden;
    }
    const noun = rows.length === 1 ? "row" : "rows";
    $(`[data-count="${id}"]`).textContent = shown === rows.length ? `${rows.length} ${noun}` : `${shown} of ${rows.length} ${noun}`;
  }
  for (const input of $$("[data-filter]")) input.addEventListener("input", () => filter(input.dataset.filter));
  for (const facet of $$("[data-facet]")) facet.addEventListener("change", () => filter("results"));

  // Drawing -------------------------------------------------------------------------------------------------------------

  /** Round numbers from low to high, about `count` of them. */
  function ticks(low, high, count = 5) {
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough - 1e-12);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(+(i * step).toPrecision(12));
    return found;
  }

  /** An empty plot: scales, grid, axes with their names. `x` and `y`: {low, high, log, zero, ticks, name, format}. */
  function frame(figure, { height, x, y, name, left = 52, right = 14 }) {
    const width = Math.max(figure.clientWidth || 640, 240), top = 12, bottom = 44;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
    const lane = x.zero ? 34 : 0; // where a logarithmic axis keeps its zeros
    const scale = (axis, from, to) => {
      const of = axis.log ? Math.log10 : (v) => v;
      const [low, high] = [of(axis.low), of(axis.high)];
      return (v) => (axis.zero && v <= 0 ? left + 8 : from + ((of(v) - low) / (high - low || 1)) * (to - from));
    };
    const sx = scale(x, left + lane, width - right), sy = scale({ ...y, zero: false }, height - bottom, top);
    const format = (axis) => axis.format ?? ((v) => minus(String(v)));
    for (const tick of y.ticks ?? ticks(y.low, y.high)) {
      root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: sy(tick), y2: sy(tick) }));
      root.append(text(left - 6, sy(tick) + 4, format(y)(tick), { "text-anchor": "end", class: "soft" }));
    }
    for (const tick of x.ticks ?? ticks(x.low, x.high, width < 420 ? 4 : 6)) {
      root.append(svg("line", { class: "grid", x1: sx(tick), x2: sx(tick), y1: top, y2: height - bottom }));
      root.append(text(sx(tick), height - bottom + 16, format(x)(tick), { "text-anchor": "middle", class: "soft" }));
    }
    if (lane) root.append(text(left + 8, height - bottom + 16, "0", { "text-anchor": "middle", class: "soft" }));
    root.append(svg("path", { class: "axis", fill: "none", d: `M${left} ${top}V${height - bottom}H${width - right}` }));
    root.append(text((left + width - right) / 2, height - 8, x.name, { "text-anchor": "middle" }));
    root.append(text(0, 0, y.name, { "text-anchor": "middle", transform: `translate(13 ${(top + height - bottom) / 2}) rotate(-90)` }));
    return { root, sx, sy, left, right: width - right, top, bottom: height - bottom, width, height };
  }

  function marker(shape, x, y, size, color) {
    const paths = [
      `M${x - size} ${y}a${size} ${size} 0 1 0 ${2 * size} 0a${size} ${size} 0 1 0 ${-2 * size} 0Z`,
      `M${x - size} ${y - size}h${2 * size}v${2 * size}h${-2 * size}Z`,
      `M${x} ${y - 1.25 * size}L${x + 1.15 * size} ${y + 0.85 * size}H${x - 1.15 * size}Z`,
      `M${x} ${y - 1.35 * size}L${x + 1.35 * size} ${y}L${x} ${y + 1.35 * size}L${x - 1.35 * size} ${y}Z`,
      `M${x} ${y + 1.25 * size}L${x + 1.15 * size} ${y - 0.85 * size}H${x - 1.15 * size}Z`,
      `M${x - size} ${y - size}L${x + size} ${y + size}M${x + size} ${y - size}L${x - size} ${y + size}`,
      `M${x - 1.2 * size} ${y}H${x + 1.2 * size}M${x} ${y - 1.2 * size}V${y + 1.2 * size}`,
      `M${x - size} ${y - 0.5 * size}h${2 * size}v${size}h${-2 * size}Z`,
    ];
    return svg("path", { class: "dot", d: paths[shape % paths.length], style: `stroke:var(--c${shape % 8});fill:var(--c${shape % 8})`, ...(color ?? {}) });
  }

  function show(figure, plot, caption, ...more) {
    figure.replaceChildren(...(plot ? [plot.root] : []), ...more, element("figcaption", {}, caption));
  }

  function options(select, names, chosen = 0) {
    select.replaceChildren(...names.map(([value, name]) => element("option", { value }, name)));
    if (names.length) select.value = String(names[Math.min(chosen, names.length - 1)][0]);
  }

  // Two rankings --------------------------------------------------------------------------------------------------------

  const groups = data.groups.map((group, i) => [i, group]).filter(([, group]) => group.series.length > 1);
  const chosen = () => {
    const group = data.groups[Number($("#group").value)], m = Number($("#measure").value);
    const [a, b] = [Number($("#a").value), Number($("#b").value)];
    const topics = [];
    const [before, after] = [group.series[a][2][m], group.series[b][2][m]];
    if (before && after) {
      group.ids.forEach((id, i) => {
        if (before[i] != null && after[i] != null) topics.push({ id, said: group.texts[i], a: before[i] / 1e4, b: after[i] / 1e4, delta: (after[i] - before[i]) / 1e4 });
      });
    }
    return { group, m, a, b, topics, measure: data.measures[m], names: [group.series[a][1], group.series[b][1]] };
  };

  function fillSeries() {
    const group = data.groups[Number($("#group").value)];
    const measured = data.measures.map((name, i) => [i, name]).filter(([i]) => group.series.some((s) => s[2][i]));
    const before = $("#measure").value;
    options($("#measure"), measured);
    if (measured.some(([i]) => String(i) === before)) $("#measure").value = before;
    const number = ([row, label]) => (label.startsWith("first stage of") ? "" : `#${data.rows[row].n} `);
    const names = group.series.map((one, i) => [i, number(one) + one[1]]);
    const best = 0;
    const own = group.series.findIndex((s, i) => i && s[1] === `first stage of ${group.series[best][1]}`);
    const alone = group.series.findIndex((s, i) => i && data.rows[s[0]].reranker === "none" && data.rows[s[0]].retriever === data.rows[group.series[best][0]].retriever);
    options($("#a"), names, own > 0 ? own : alone > 0 ? alone : 1);
    options($("#b"), names, best);
  }

  function testOf({ group, m, a, b }) {
    const found = (group.tests[m] ?? []).find(([i, j]) => (i === a && j === b) || (i === b && j === a));
    if (!found) return null;
    const [i, , difference, low, high, p] = found;
    return i === b ? { difference, low, high, p } : { difference: -difference, low: -high, high: -low, p };
  }

  function compare() {
    const now = chosen(), { topics, measure, names } = now;
    const [wins, losses] = [topics.filter((t) => t.delta > 0).length, topics.filter((t) => t.delta < 0).length];
    const mean = (key) => sum(topics.map((t) => t[key])) / (topics.length || 1);
    const test = testOf(now);
    const difference = test ? test.difference : mean("delta");
    $("#verdict").replaceChildren(
      `A: ${names[0]}, ${measure} ${fixed(mean("a"))}. B: ${names[1]}, ${fixed(mean("b"))}. B \u2212 A = `,
      element("b", {}, signed(difference)),
      test ? ` (95\u00a0% interval ${signed(test.low)} to ${signed(test.high)}), ${test.p < 0.001 ? "p<0.001" : `p=${test.p.toFixed(3)}`}, paired t-test, one test, not corrected.` : " (no test in this file).",
      ` B is better on ${wins}, equal on ${topics.length - wins - losses}, worse on ${losses} of ${topics.length} topics.`,
    );
    scatter(now);
    deltas(now);
    histogram(now);
    const body = $("#topics").tBodies[0];
    const cell = (value, said) => element("td", { class: "n", "data-v": value }, said);
    body.replaceChildren(...topics.map((t) => element("tr", {},
      element("th", { scope: "row", class: "name" }, t.id),
      element("td", { dir: "auto", lang: now.group.lang }, t.said),
      cell(t.a, fixed(t.a)), cell(t.b, fixed(t.b)), cell(t.delta, signed(t.delta)))));
    sort($("#topics"), 4, "ascending");
    filter("topics");
  }

  const title = (t) => svg("title", {}, `${t.id} ${clipped(t.said, 80)}\nA ${fixed(t.a)}, B ${fixed(t.b)}, \u0394 ${signed(t.delta)}`);
  const side = (delta) => (delta > 0 ? "better" : delta < 0 ? "worse" : "soft");

  function scatter({ topics, measure, names }) {
    const axis = (name) => ({ low: 0, high: Math.max(1, ...topics.flatMap((t) => [t.a, t.b])), name });
    const plot = frame($("#plot-scatter"), { height: 300, x: axis(`A: ${measure}`), y: axis(`B: ${measure}`), name: `${measure} of ${names[1]} against ${names[0]}, a point for each topic` });
    const { root, sx, sy } = plot;
    root.append(svg("line", { class: "axis", "stroke-dasharray": "4 4", x1: sx(0), y1: sy(0), x2: sx(axis("").high), y2: sy(axis("").high) }));
    for (const t of topics) {
      const shape = t.delta > 0 ? 2 : t.delta < 0 ? 4 : 0;
      const point = marker(shape, sx(t.a), sy(t.b), 3.6, { style: `stroke:var(--${side(t.delta)});fill:var(--${side(t.delta)})` });
      point.append(title(t));
      root.append(point);
    }
    show($("#plot-scatter"), plot, `A point for each topic. A: ${names[0]}. B: ${names[1]}. Above the line (\u25b3) B is better, below it (\u25bd) A.`);
  }

  function bounds(topics) {
    const most = Math.max(0.05, ...topics.map((t) => Math.abs(t.delta)));
    return Math.ceil(most * 20 - 1e-9) / 20;
  }

  function deltas({ topics, measure, names }) {
    const order = [...topics].sort((s, t) => t.delta - s.delta), most = bounds(topics);
    const plot = frame($("#plot-deltas"), {
      height: 300, x: { low: 0, high: Math.max(order.length, 1), name: "topics, from best to worst change" },
      y: { low: -most, high: most, name: `\u0394 ${measure}, B \u2212 A` }, name: `Change of ${measure} from ${names[0]} to ${names[1]}, topic by topic`,
    });
    const { root, sx, sy } = plot, gap = (sx(1) - sx(0)) > 4 ? 0.15 : 0;
    order.forEach((t, i) => {
      const [from, to] = [sy(Math.max(t.delta, 0)), sy(Math.min(t.delta, 0))];
      const bar = svg("rect", { x: sx(i + gap / 2), width: Math.max(sx(1 - gap) - sx(0), 0.3), y: from, height: Math.max(to - from, 0.5), style: `fill:var(--${side(t.delta)})` });
      bar.append(title(t));
      root.append(bar);
    });
    root.append(svg("line", { class: "axis", x1: plot.left, x2: plot.right, y1: sy(0), y2: sy(0) }));
    show($("#plot-deltas"), plot, `Each topic\u2019s change: ${measure} of ${names[1]} minus that of ${names[0]}.`);
  }

  function histogram({ topics, measure, names }) {
    const most = bounds(topics), bins = 21, width = (2 * most) / bins, counts = Array(bins).fill(0);
    for (const t of topics) counts[Math.min(bins - 1, Math.floor((t.delta + most) / width + 1e-9))]++;
    const top = Math.max(1, ...counts);
    const plot = frame($("#plot-histogram"), {
      height: 300, x: { low: -most, high: most, name: `\u0394 ${measure}, B \u2212 A` },
      y: { low: 0, high: top, name: "topics", ticks: ticks(0, top).filter(Number.isInteger) }, name: `Distribution of the change of ${measure} over the topics`,
    });
    const { root, sx, sy } = plot;
    counts.forEach((count, i) => {
      const low = -most + i * width, kind = i < (bins - 1) / 2 ? "worse" : i > (bins - 1) / 2 ? "better" : "soft";
      const bar = svg("rect", { x: sx(low) + 0.75, width: Math.max(sx(low + width) - sx(low) - 1.5, 0.5), y: sy(count), height: sy(0) - sy(count), style: `fill:var(--${kind})` });
      bar.append(svg("title", {}, `${signed(low, 3)} to ${signed(low + width, 3)}: ${count} topics`));
      root.append(bar);
    });
    const mean = sum(topics.map((t) => t.delta)) / (topics.length || 1);
    root.append(svg("line", { x1: sx(mean), x2: sx(mean), y1: plot.top, y2: plot.bottom, style: "stroke:var(--ink);stroke-width:1.5;stroke-dasharray:5 3" }));
    show($("#plot-histogram"), plot, `Distribution of the change over ${topics.length} topics; the dashed line is its mean, ${signed(mean)}. Names: A ${names[0]}, B ${names[1]}.`);
  }

  // Cost ----------------------------------------------------------------------------------------------------------------

  /** What tells the points apart: rerankers or retrievers, if they are few enough for shapes. */
  function kinds(rows) {
    for (const key of ["reranker", "retriever"]) {
      const found = [...new Set(rows.map((row) => row[key]))];
      if (found.length > 1 && found.length <= 8) return { key, found };
    }
    return { key: "", found: [] };
  }

  function cost() {
    const group = $("#cost-group").value, m = Number($("#cost-measure").value), axis = Number($("#cost-axis").value);
    const figure = $("#plot-cost");
    const rows = data.rows.filter((row) => (group === "" || row.group === group) && row.values[m] != null && row.cost[axis] != null);
    if (!rows.length) return show(figure, null, "No experiment has both this measure and this cost.");
    const costs = rows.map((row) => row.cost[axis]), positive = costs.filter((v) => v > 0);
    const [least, most] = [Math.min(...positive, Infinity), Math.max(...costs, 1e-9)];
    const log = positive.length > 0 && most / least >= 30, zero = log && positive.length < costs.length;
    const values = rows.map((row) => row.values[m]), spread = Math.max(Math.max(...values) - Math.min(...values), 0.02);
    const x = log
      ? { low: 10 ** Math.floor(Math.log10(least)), high: 10 ** Math.ceil(Math.log10(most) + 1e-9), log: true, zero }
      : { low: 0, high: most * 1.05 };
    if (log) x.ticks = Array.from({ length: Math.round(Math.log10(x.high / x.low)) + 1 }, (_, i) => x.low * 10 ** i);
    const plot = frame(figure, {
      height: 380, right: 30, x: { ...x, name: COSTS[axis] + (log ? " (logarithmic)" : ""), format: short },
      y: { low: Math.max(0, Math.min(...values) - spread * 0.1), high: Math.max(...values) + spread * 0.1, name: data.measures[m] },
      name: `${data.measures[m]} against ${COSTS[axis]}, a point for each experiment`,
    });
    const { root, sx, sy } = plot, { key, found } = kinds(rows);
    const order = [...rows].sort((r, s) => r.cost[axis] - s.cost[axis] || s.values[m] - r.values[m]);
    const front = [];
    for (const row of order) if (!front.length || row.values[m] > front.at(-1).values[m]) front.push(row);
    const steps = front.map((row, i) => `${i ? `H${sx(row.cost[axis])}V${sy(row.values[m])}` : `M${sx(row.cost[axis])} ${sy(row.values[m])}`}`).join("") + `H${plot.right}`;
    if (group !== "" || data.groups.length === 1) root.append(svg("path", { class: "axis", fill: "none", "stroke-dasharray": "2 3", d: steps }));
    const boxes = [];
    for (const row of order) {
      const [px, py] = [sx(row.cost[axis]), sy(row.values[m])];
      const point = marker(Math.max(found.indexOf(row[key]), 0), px, py, 5);
      point.append(svg("title", {}, `#${row.n} ${row.label} (${row.group})\n${data.measures[m]} ${fixed(row.values[m])}, ${short(row.cost[axis])} ${COSTS[axis]}`));
      root.append(point);
      boxes.push([px - 6, py - 6, px + 6, py + 6]);
    }
    for (const row of rows.length <= 60 ? order : front) {
      const [px, py] = [sx(row.cost[axis]), sy(row.values[m])], said = String(row.n), wide = said.length * 7;
      const places = [[8, 4], [-8 - wide, 4], [-wide / 2, -9], [-wide / 2, 18]].map(([dx, dy]) => [px + dx, py + dy - 9, px + dx + wide, py + dy + 1]);
      const free = places.find((p) => p[2] < plot.width && !boxes.some((b) => p[0] < b[2] && p[2] > b[0] && p[1] < b[3] && p[3] > b[1]));
      if (!free) continue; // crowded: the number is in the point's title and in the table
      boxes.push(free);
      root.append(text(free[0], free[3] - 1, said, { class: "halo" }));
    }
    const legend = element("ul", { class: "legend" }, ...found.map((name, i) => element("li", {}, sample(i, false), `${key === "reranker" && name === "none" ? "no reranker" : name}`)));
    const dominated = group !== "" || data.groups.length === 1 ? " Dotted: what no cheaper experiment reaches." : "";
    show(figure, plot, `Numbers are those of the results table. Costs are from scratch: a step that several experiments share counts in each.${dominated}`, legend);
  }

  function sample(i, line) {
    const root = svg("svg", { viewBox: "0 0 38 14", "aria-hidden": "true" });
    if (line) root.append(svg("line", { class: "curve", x1: 1, x2: 37, y1: 7, y2: 7, "stroke-dasharray": DASHES[i], style: `stroke:var(--c${i})` }));
    root.append(marker(i, 19, 7, 4));
    return root;
  }

  // Recall --------------------------------------------------------------------------------------------------------------

  function recall() {
    const ticked = $$("#results input:checked").map((box) => data.rows.find((row) => row.n === Number(box.value)));
    const rows = ticked.slice(0, 8), figure = $("#plot-recall");
    for (const box of $$("#results input[type=checkbox]")) box.disabled = !box.checked && ticked.length >= 8;
    if (!rows.length) return show(figure, null, $("#results input[type=checkbox]") ? "No experiment is ticked." : "No recall curves: see the notes.");
    const depth = Math.max(...rows.map((row) => row.depth)), deepest = Math.max(10, ...data.depths.filter((d) => d <= depth));
    const plot = frame(figure, {
      height: 380, right: 40, x: { low: 1, high: deepest, log: true, ticks: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].filter((d) => d <= deepest), name: "depth (logarithmic)" },
      y: { low: 0, high: 1, name: "recall" }, name: `Recall by depth of ${rows.length} experiments`,
    });
    const { root, sx, sy } = plot, ends = [];
    rows.forEach((row, i) => {
      const points = data.depths.map((d, k) => [d, row.recall[k]]).filter(([d]) => d <= Math.min(row.depth, deepest));
      root.append(svg("path", { class: "curve", "stroke-dasharray": DASHES[i], style: `stroke:var(--c${i})`, d: points.map(([d, r], k) => `${k ? "L" : "M"}${sx(d)} ${sy(r)}`).join("") }));
      for (const [d, r] of points) {
        const dot = marker(i, sx(d), sy(r), 3.5);
        dot.append(svg("title", {}, `#${row.n} ${row.label} (${row.group}): recall at ${d} is ${fixed(r)}`));
        root.append(dot);
      }
      const [d, r] = points.at(-1);
      ends.push({ x: sx(d) + 8, y: sy(r) + 4, said: `#${row.n}` });
    });
    ends.sort((a, b) => a.y - b.y).forEach((end, i) => {
      if (i && end.y - ends[i - 1].y < 12) end.y = ends[i - 1].y + 12;
      root.append(text(end.x, end.y, end.said, { class: "halo" }));
    });
    const several = new Set(rows.map((row) => row.group)).size > 1;
    const legend = element("ul", { class: "legend" }, ...rows.map((row, i) => element("li", {}, sample(i, true), `#${row.n} ${row.label}${several ? `, ${row.group}` : ""}`)));
    show(figure, plot, "Share of a topic\u2019s relevant documents among the first documents of the final ranking, averaged over the topics that count.", legend);
  }

  // Begin ---------------------------------------------------------------------------------------------------------------

  if (groups.length) {
    options($("#group"), groups.map(([i, group]) => [i, group.name]));
    fillSeries();
    $("#group").addEventListener("change", () => { fillSeries(); compare(); });
    for (const id of ["#measure", "#a", "#b"]) $(id).addEventListener("change", compare);
    $("#swap").addEventListener("click", () => {
      [$("#a").value, $("#b").value] = [$("#b").value, $("#a").value];
      compare();
    });
  } else {
    $("#compare").replaceChildren($("#compare h2"), element("p", {}, "There is one ranking only: nothing to compare."));
  }
  const names = [...new Set(data.rows.map((row) => row.group))];
  options($("#cost-group"), [...names.map((name) => [name, name]), ...(names.length > 1 ? [["", "all"]] : [])]);
  options($("#cost-measure"), data.measures.map((name, i) => [i, name]));
  options($("#cost-axis"), COSTS.map((name, i) => [i, name]).filter(([i]) => data.rows.some((row) => row.cost[i] > 0)));
  for (const id of ["#cost-group", "#cost-measure", "#cost-axis"]) $(id).addEventListener("change", cost);
  $("#results").addEventListener("change", recall);
  for (const link of $$("nav a")) if (!$(link.getAttribute("href"))) link.remove();

  const draw = () => {
    if (groups.length) compare();
    cost();
    recall();
  };
  let waiting = 0, drawn = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { if (innerWidth !== drawn) { drawn = innerWidth; draw(); } }, 150);
  });
  drawn = innerWidth;
  draw();
  document.documentElement.dataset.ready = "true";
})();
