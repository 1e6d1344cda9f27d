// The page of `densekit report`: draws what #data holds and filters by class and score. No library, no network.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const SVG = "http://www.w3.org/2000/svg";
  const state = { name: "", score: Number(document.querySelector("#score")?.value ?? 0.5) };

  function make(tag, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "line", "rect", "text", "circle"].includes(tag);
    const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
    }
    node.append(...children);  // strings become text, never HTML
    return node;
  }

  const classNumber = (kind) => (data.classes[kind] || []).indexOf(state.name);

  // ---- charts -----------------------------------------------------------------------------------------------------

  const short = (value) => {
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1);
    return String(Number(value.toPrecision(3)));
  };

  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= rough * 0.999);
    const marks = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) marks.push(k * step);
    return marks;
  }

  // series: [{name, points: [[x, y], ...]}]; axes: {x, y: {label, low, high}}; bars: [[x0, x1, y, text], ...]
  function chart(host, { series = [], bars = [], axes, summary }) {
    const points = [...series.flatMap((one) => one.points), ...bars.flatMap(([x0, x1, y]) => [[x0, y], [x1, y]])];
    const range = (axis, place) => {
      const values = points.map((point) => point[place]);
      const low = axis.low ?? Math.min(...values);
      const high = axis.high ?? Math.max(...values);
      return high > low ? [low, high] : [low - 0.5, low + 0.5];
    };
    const [xs, ys] = [range(axes.x, 0), range(axes.y, 1)];
    const readout = make("p", { class: "readout", "aria-live": "polite" });
    const drawing = make("div", { class: "drawing", tabindex: 0, role: "img", "aria-label": summary });
    const legend = make("ul", { class: "legend" });
    series.forEach((one, k) => legend.append(make("li", {}, make("i", { class: `key line c${k % 8}` }), one.name)));
    host.replaceChildren(drawing, readout, ...(series.length > 1 ? [legend] : []));
    const step = stepper(series, bars, axes, readout);

    function draw() {
      const width = Math.max(260, drawing.clientWidth), height = Math.min(360, Math.max(220, width * 0.5));
      const left = 48, right = 12, top = 10, bottom = 40;
      const x = (value) => left + ((value - xs[0]) / (xs[1] - xs[0])) * (width - left - right);
      const y = (value) => height - bottom - ((value - ys[0]) / (ys[1] - ys[0])) * (height - top - bottom);
      const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
      for (const mark of ticks(...xs, Math.max(3, Math.floor(width / 110)))) {
        svg.append(make("line", { class: "grid", x1: x(mark), x2: x(mark), y1: top, y2: height - bottom }));
        svg.append(make("text", { class: "tick", x: x(mark), y: height - bottom + 16, "text-anchor": "middle" }, short(mark)));
      }
      for (const mark of ticks(...ys, 5)) {
        svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y(mark), y2: y(mark) }));
        svg.append(make("text", { class: "tick", x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, short(mark)));
      }
      svg.append(make("text", { class: "axis", x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, axes.x.label));
      const middle = (top + height - bottom) / 2;
      svg.append(make("text", { class: "axis", transform: `translate(11 ${middle}) rotate(-90)`, "text-anchor": "middle" }, axes.y.label));
      for (const [x0, x1, value] of bars) {
        svg.append(make("rect", { class: "bar-fill", x: x(x0) + 1, width: Math.max(1, x(x1) - x(x0) - 2), y: y(value), height: y(ys[0]) - y(value) }));
      }
      series.forEach((one, k) => {
        const at = one.points.map(([a, b]) => `${x(a).toFixed(1)} ${y(b).toFixed(1)}`);
        svg.append(make("path", { class: `curve c${k % 8}${one.dashed ? " dashed" : ""}`, d: "M" + at.join("L") }));
        if (one.points.length === 1) svg.append(make("circle", { class: `dot c${k % 8}`, cx: x(one.points[0][0]), cy: y(one.points[0][1]), r: 4 }));
      });
      const cursor = make("line", { class: "cursor", y1: top, y2: height - bottom, x1: -9, x2: -9 });
      svg.append(cursor);
      drawing.replaceChildren(svg);
      const show = (value) => { cursor.setAttribute("x1", x(value)); cursor.setAttribute("x2", x(value)); };
      drawing.onpointermove = (event) => {
        const box = svg.getBoundingClientRect();
        const place = ((event.clientX - box.left) / box.width) * width;
        show(step.near(xs[0] + ((place - left) / (width - left - right)) * (xs[1] - xs[0])));
      };
      drawing.onkeydown = (event) => {
        const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (move === undefined) return;
        event.preventDefault();
        show(step.by(move));
      };
    }
    draw();
    if (host.watcher) host.watcher.disconnect();
    let seen = drawing.clientWidth;
    host.watcher = new ResizeObserver(() => {
      if (drawing.clientWidth !== seen) { seen = drawing.clientWidth; draw(); }
    });
    host.watcher.observe(drawing);
  }

  // The point of a series at an x, on the line between two of its points only where the line is part of the curve.
  function at({ points, between }, x) {
    const exact = points.find((point) => point[0] === x);
    const k = points.findIndex((point) => point[0] > x);
    if (exact || !between || k < 1) return exact;
    const [[x0, y0], [x1, y1]] = [points[k - 1], points[k]];
    return [x, y0 + ((y1 - y0) * (x - x0)) / (x1 - x0)];
  }

  // Says the values at one x after another.
  function stepper(series, bars, axes, readout) {
    const places = [...new Set([...series.filter((one) => !one.dashed).flatMap((one) => one.points.map((p) => p[0])), ...bars.map(([a, b]) => (a + b) / 2)])];
    places.sort((a, b) => a - b);
    let current = -1;
    function go(number) {
      current = Math.min(places.length - 1, Math.max(0, number));
      const value = places[current];
      const said = [];
      for (const one of series) {
        const point = one.dashed ? undefined : at(one, value);
        if (point) said.push(series.length > 1 ? `${one.name} ${short(point[1])}` : short(point[1]));
      }
      for (const [a, b, , text] of bars) if ((a + b) / 2 === value) said.push(text);
      readout.textContent = bars.length ? said.join(", ") : `${axes.x.label} ${short(value)}: ${said.join(", ")}`;
      return value;
    }
    return {
      by: (move) => go(current + move),
      near: (value) => go(places.reduce((best, p, k) => (Math.abs(p - value) < Math.abs(places[best] - value) ? k : best), 0)),
    };
  }

  function drawRecall() {
    const host = find("#recall");
    if (!host) return;
    const chosen = find("input[name=recall-task]:checked");
    const task = chosen ? chosen.value : Object.keys(data.instances.recall)[0];
    const number = classNumber("instances");
    const curves = data.instances.recall[task][number < 0 ? "all" : String(number)];
    if (!curves) {
      host.replaceChildren(make("p", { class: "quiet" }, "There is no object of this class in the data set."));
      return;
    }
    const names = ["IoU 0.50", "IoU 0.75", "mean of IoU 0.50 to 0.95"];
    const series = curves.map(({ area, precision, recall }, k) => {
      const points = precision.map((value, i) => [recall ? recall[i] : i / (precision.length - 1), value]);
      return { name: `${names[k]} (AP ${area.toFixed(1)})`, points, between: true };
    });
    const axes = { x: { label: "recall", low: 0, high: 1 }, y: { label: "precision", low: 0, high: 1 } };
    chart(host, { series, axes, summary: `Precision by recall for ${state.name || "all classes"}: ${series.map((one) => one.name).join(", ")}` });
  }

  function drawCalibration() {
    const host = find("#calibration");
    if (!host) return;
    const number = classNumber("instances");
    const bins = data.instances.calibration[number < 0 ? "all" : String(number)] || [];
    const total = bins.reduce((sum, [count]) => sum + count, 0);
    const note = find("#calibration-error");
    if (!total) {
      host.replaceChildren(make("p", { class: "quiet" }, "There is no detection of this class."));
      note.textContent = "";
      return;
    }
    const wide = 1 / bins.length;
    const bars = [];
    let error = 0;
    bins.forEach(([count, sum, right], k) => {
      if (!count) return;
      error += Math.abs(sum - right) / total;
      const text = `score ${short(k * wide)} to ${short((k + 1) * wide)}: ${right} of ${count} right (${((100 * right) / count).toFixed(0)} %)`;
      bars.push([k * wide, (k + 1) * wide, right / count, text]);
    });
    const series = [{ name: "calibrated", dashed: true, points: [[0, 0], [1, 1]] }];
    const axes = { x: { label: "score", low: 0, high: 1 }, y: { label: "share right", low: 0, high: 1 } };
    const said = `expected calibration error ${error.toFixed(3)} over ${total} detections`;
    chart(host, { series, bars, axes, summary: `Share of right detections by score: ${said}` });
    note.textContent = said[0].toUpperCase() + said.slice(1) + ".";
  }

  function drawLearning() {
    const host = find("#learning");
    if (!host) return;
    for (const group of data.learning) {
      const box = make("div", { class: "chart" });
      host.append(make("div", {}, make("h3", {}, group.title), box));
      const low = group.title === "Losses" || group.title === "Learning rate" ? 0 : undefined;
      const axes = { x: { label: "iteration" }, y: { label: group.title === "Evaluations" ? "percent" : "", low } };
      chart(box, { series: group.series, axes, summary: `${group.title} by iteration: ${group.series.map((one) => one.name).join(", ")}` });
    }
  }

  function drawLosses() {
    const host = find("#losses");
    if (!host) return;
    const { thresholds, counts, objects } = data.instances.losses;
    const number = classNumber("instances");
    let at = 0;
    thresholds.forEach((value, k) => { if (Math.abs(value - state.score) < 1e-6) at = k; });
    const sum = (rows) => rows.reduce((a, b) => a + b, 0);
    const of = (k) => (number < 0 ? sum(counts[at].map((row) => row[k])) : counts[at][number][k]);
    const total = number < 0 ? sum(objects) : objects[number];
    const [asOther, place, missed, background] = [0, 1, 2, 3].map(of);
    const list = make("dl", { class: "tiles" });
    const share = (count) => (total ? `${count} (${((100 * count) / total).toFixed(0)} %)` : String(count));
    for (const [name, text] of [
      ["objects", String(total)], ["found", share(total - asOther - place - missed)], ["class", share(asOther)],
      ["place", share(place)], ["missed", share(missed)], ["background", String(background)],
    ]) list.append(make("div", { "data-loss": name }, make("dt", {}, name), make("dd", {}, text)));
    host.replaceChildren(list);
  }

  // ---- confusion --------------------------------------------------------------------------------------------------

  const MOST_CLASSES = 24;

  function drawConfusion(host) {
    const kind = host.dataset.kind;
    const names = data.classes[kind];
    const { thresholds, cells } = data[kind].confusion;
    const objects = kind !== "semantic";  // which may be missed, and found where nothing is
    let at = 0;
    thresholds.forEach((value, k) => { if (objects && Math.abs(value - state.score) < 1e-6) at = k; });
    const none = objects || cells[at].some(([, column]) => column === names.length);  // a column for what is not predicted
    const size = names.length + (none ? 1 : 0);
    const counts = Array.from({ length: size }, () => new Float64Array(size));
    for (const [row, column, count] of cells[at]) counts[row][column] = count;
    const sums = counts.map((row) => row.reduce((a, b) => a + b, 0));
    const chosen = classNumber(kind);
    // Of many classes the most frequent, or those that the chosen one is confused with most.
    const weight = (k) => (chosen < 0 ? sums[k] : k === chosen ? Infinity : counts[k][chosen] + counts[chosen][k]);
    const rows = names.map((_, k) => k).sort((a, b) => weight(b) - weight(a) || sums[b] - sums[a]).slice(0, MOST_CLASSES);
    rows.sort((a, b) => a - b);
    const columns = none ? [...rows, names.length] : [...rows];
    if (objects) rows.push(names.length);
    const missing = kind === "panoptic" ? "no match" : "nothing";
    const label = (k, row) => (k < names.length ? names[k] : row ? missing : objects ? "missed" : "no class");
    const head = make("tr", {}, make("td"), ...columns.map((k) => make("th", { scope: "col", class: k === chosen && "on" }, make("span", {}, label(k, false)))));
    const body = make("tbody");
    for (const row of rows) {
      const line = make("tr", {}, make("th", { scope: "row", title: label(row, true), class: row === chosen && "on" }, label(row, true)));
      for (const column of columns) {
        const count = counts[row][column], share = sums[row] ? count / sums[row] : 0;
        const corner = objects && row === names.length && column === names.length;
        const text = corner ? "" : objects ? (count ? String(count) : "") : share >= 0.0005 ? (100 * share).toFixed(1) : "";
        const title = corner ? undefined : `${label(row, true)} → ${label(column, false)}: ${count} (${(100 * share).toFixed(1)} %)`;
        const cell = make("td", { title, class: [row === column && "right", (row === chosen || column === chosen) && "on"].filter(Boolean).join(" ") }, text);
        cell.style.setProperty("--share", share.toFixed(3));
        line.append(cell);
      }
      body.append(line);
    }
    const table = make("table", { class: "matrix" }, make("caption", { class: "hidden" }, "annotated class by predicted class"), make("thead", {}, head), body);
    const parts = [make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "confusion matrix" }, table)];
    if (names.length > MOST_CLASSES) {
      const which = chosen < 0 ? "most frequent" : `confused most with ${names[chosen]}, and itself,`;
      parts.push(make("p", { class: "quiet" }, `The ${MOST_CLASSES} ${which} of ${names.length} classes.`));
    }
    host.replaceChildren(make("div", {}, ...parts), ...mistakes(kind, counts, sums, chosen));
    if (names.length > MOST_CLASSES) host.append(wholeMatrix(names, counts, sums, chosen));
  }

  // All classes in one picture, a point for each pair; pointing at it names the pair, a click chooses the annotated class.
  function wholeMatrix(names, counts, sums, chosen) {
    const count = names.length, side = Math.max(2, Math.floor(640 / count));
    const canvas = make("canvas", { width: count * side, height: count * side, role: "img", "aria-label": `confusion of all ${count} classes` });
    const style = getComputedStyle(document.documentElement);
    const [right, wrong, mark] = ["--found", "--wrong", "--line"].map((name) => style.getPropertyValue(name));
    const drawn = canvas.getContext("2d");
    const fill = (colour, alpha, ...place) => { drawn.fillStyle = colour; drawn.globalAlpha = alpha; drawn.fillRect(...place); };
    fill(mark, 0.35, 0, 0, count * side, count * side);
    if (chosen >= 0) for (const place of [[0, chosen * side, count * side, side], [chosen * side, 0, side, count * side]]) fill(mark, 1, ...place);
    for (let row = 0; row < count; row++) {
      for (let column = 0; column < count; column++) {
        // The square root, so that small shares are seen.
        if (counts[row][column]) fill(row === column ? right : wrong, Math.sqrt(counts[row][column] / sums[row]), column * side, row * side, side, side);
      }
    }
    const note = make("p", { class: "readout", "aria-live": "polite" }, "Point at a pair of classes; click to choose the annotated one.");
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientY - box.top, event.clientX - box.left].map((value) => Math.min(count - 1, Math.max(0, Math.floor((value / box.width) * count))));
    };
    canvas.addEventListener("pointermove", (event) => {
      const [row, column] = place(event), share = sums[row] ? counts[row][column] / sums[row] : 0;
      note.textContent = `${names[row]} → ${names[column]}: ${counts[row][column]} (${(100 * share).toFixed(1)} %)`;
    });
    canvas.addEventListener("click", (event) => {
      const choice = find("#class");
      choice.value = names[place(event)[0]];
      choice.dispatchEvent(new Event("change"));
    });
    return make("div", { class: "whole" }, make("h3", {}, `All ${count} classes, in their order`), canvas, note);
  }

  function mistakes(kind, counts, sums, chosen) {
    const names = data.classes[kind], objects = kind !== "semantic";
    const alone = kind === "panoptic" ? "that matches no segment" : "where nothing is annotated";
    const found = [];
    counts.forEach((row, i) => row.forEach((count, j) => {
      if (count && i !== j && (chosen < 0 || i === chosen || j === chosen)) found.push([count, i, j]);
    }));
    found.sort((a, b) => b[0] - a[0]);
    if (!found.length) return [];
    const total = sums.reduce((a, b) => a + b, 0);
    const list = make("ol", { class: "mistakes" });
    for (const [count, i, j] of found.slice(0, 8)) {
      const times = objects ? `${count} ×` : `${((100 * count) / total).toFixed(1)} %`;
      const what = objects && j === names.length ? `${names[i]} missed` : objects && i === names.length ? `${names[j]} ${alone}` : `${names[i]} taken for ${names[j] ?? "no class"}`;
      list.append(make("li", {}, make("b", {}, times), ` ${what}`));
    }
    return [make("div", {}, make("h3", {}, objects ? "Most frequent mistakes" : "Most frequent mistakes, of all pixels"), list)];
  }

  // ---- gallery ----------------------------------------------------------------------------------------------------

  const shape = (number) => (node) => number < 0 || Number(node.dataset.c) === number;

  function tally(card, number) {
    let right = 0, wrong = 0, missed = 0;
    for (const node of all(".shape", card)) {
      const { s, m } = node.dataset;
      const kept = shape(number)(node);
      if (s !== undefined) {
        const visible = kept && Number(s) >= state.score - 1e-9;
        node.classList.toggle("off", !visible);
        if (visible && node.classList.contains("true")) right++;
        if (visible && node.classList.contains("false")) wrong++;
      } else {
        node.classList.toggle("off", !kept);
        if (node.classList.contains("crowd")) continue;
        const lost = Number(m) < state.score - 1e-9;
        node.classList.toggle("missed", lost);
        if (kept && lost) missed++;
      }
    }
    const place = find(".tally", card);
    if (place && find(".shape", card)) place.textContent = `${right} right, ${wrong} wrong, ${missed} missed`;
  }

  function drawGallery(gallery) {
    const kind = gallery.dataset.kind;
    const order = find(`input[name=order-${kind}]:checked`).value;
    const number = classNumber(kind);
    const section = gallery.closest("section");
    const cards = all(".pair", gallery);
    cards.sort((a, b) => Number(a.dataset[order] ?? 1e9) - Number(b.dataset[order] ?? 1e9));
    let visible = 0;
    for (const card of cards) {
      // Labels that do not tell the class apart are not filtered by it.
      let shown = card.dataset[order] !== undefined && (number < 0 || card.dataset.classes.split(" ").includes(String(number)));
      if (kind === "instances") {
        tally(card, number);
        shown &&= number < 0 || find(".shape:not(.off)", card) !== null;  // not for detections below the score
      }
      card.hidden = !shown;
      visible += shown;
    }
    gallery.append(...cards);
    find(".none-left", section).hidden = visible > 0;
  }

  const dialog = find("#zoom");
  let opened = null;

  function open(card) {
    opened = card;
    const copy = find(".panels", card).cloneNode(true);
    const view = make("div", { class: `${copy.className} big` }, ...copy.childNodes);
    view.style.setProperty("--shot", card.style.getPropertyValue("--shot"));
    find(".view", dialog).replaceChildren(view);
    find(".title", dialog).textContent = find("figcaption", card).textContent.trim();
    if (!dialog.open) dialog.showModal();
  }

  function next(move) {
    const cards = all(".pair:not([hidden])", opened.parentNode).filter((card) => find("button.panels", card));
    open(cards[(cards.indexOf(opened) + move + cards.length) % cards.length]);
  }

  function listen() {
    for (const card of all(".pair")) {
      const button = find("button.panels", card);
      if (button) button.addEventListener("click", () => open(card));
    }
    find(".close", dialog).addEventListener("click", () => dialog.close());
    find(".previous", dialog).addEventListener("click", () => next(-1));
    find(".next", dialog).addEventListener("click", () => next(1));
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => find("button.panels", opened).focus());
    dialog.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (move) { event.preventDefault(); next(move); }
    });
    const choice = find("#class"), score = find("#score");
    choice?.addEventListener("change", () => { state.name = choice.value; update(); });
    score?.addEventListener("input", () => {
      state.score = Number(score.value);
      find("#score-value").textContent = state.score.toFixed(2);
      drawShown();
    });
    find(".toolbar")?.addEventListener("submit", (event) => event.preventDefault());
    for (const layer of ["box", "mask", "pose"]) {
      const box = find(`#show-${layer}`);
      box?.addEventListener("change", () => document.body.classList.toggle(`no-${layer}`, !box.checked));
    }
    for (const radio of all("input[name=recall-task]")) radio.addEventListener("change", drawRecall);
    for (const radio of all("input[name^=order-]")) radio.addEventListener("change", () => all(".gallery").forEach(drawGallery));
    all("table.sortable").forEach(sortable);
  }

  // ---- tables -----------------------------------------------------------------------------------------------------

  function sortable(table) {
    const body = find("tbody", table);
    all("thead th", table).forEach((head, column) => {
      const button = find("button", head);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending" && column > 0;
        const key = (row) => row.cells[column].textContent.trim();
        const value = (row) => { const number = parseFloat(key(row).replace(/,/g, "")); return Number.isNaN(number) ? -1 : number; };
        const rows = [...body.rows].sort((a, b) => (column ? value(b) - value(a) : key(a).localeCompare(key(b))));
        const flip = column ? !down : head.getAttribute("aria-sort") === "ascending";
        body.append(...(flip ? rows.reverse() : rows));
        all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", column ? (down ? "descending" : "ascending") : flip ? "descending" : "ascending");
      });
    });
  }

  function markRows() {
    for (const row of all("table.classes tbody tr")) {
      row.classList.toggle("on", state.name !== "" && find(".name", row).firstChild.textContent === state.name);
    }
  }

  // What depends on the score as well as on the class.
  function drawShown() {
    drawLosses();
    all(".gallery").forEach(drawGallery);
    all(".confusion").forEach(drawConfusion);
  }

  function update() {
    drawShown();
    drawRecall();
    drawCalibration();
    markRows();
  }

  listen();
  drawLearning();
  update();
})();
