"use strict";
// The page is complete without this: it filters, orders and lists the mistakes, keeps marks, smooths curves, reads
// off thresholds and sorts tables.
(() => {
  const bar = document.getElementById("filter");
  const find = (id) => document.getElementById(id);
  const count = (n) => `${n} ${n === 1 ? "image" : "images"}`;

  const names = (cell) => {
    const [, row, column] = cell.split("-").map(Number);
    const matrix = document.querySelector("table.confusion");
    if (!matrix) return "";
    const name = (element) => element.textContent.trim();
    return `: ${name(matrix.tBodies[0].rows[row].cells[0])} taken for ${name(matrix.tHead.rows[0].cells[column + 1])}`;
  };

  if (bar) {
    const mistakes = [...document.querySelectorAll("[data-cell]")];
    const first = new Map(mistakes.map((each, place) => [each, place]));
    const orders = {
      worst: (a, b) => first.get(a) - first.get(b),
      sure: (a, b) => b.dataset.p - a.dataset.p,
      path: (a, b) => (a.dataset.path < b.dataset.path ? -1 : 1),
    };
    const text = find("filter-text");
    const paths = find("filter-paths");
    let cell = null;

    const show = () => {
      const wanted = text.value.toLowerCase();
      let found = 0;
      for (const each of mistakes) {
        each.hidden = (cell !== null && each.dataset.cell !== cell) || !each.dataset.path.toLowerCase().includes(wanted);
        if (each.hidden) continue;
        found += 1;
        if ((cell !== null || wanted) && each.closest("details")) each.closest("details").open = true;
      }
      find("filter-all").hidden = cell === null && !wanted;
      paths.hidden = true;
      find("filter-said").textContent = cell === null && !wanted ? "" : `${count(found)}${cell === null ? "" : names(cell)}.`;
    };

    bar.hidden = false;
    text.addEventListener("input", show);
    find("filter-all").addEventListener("click", () => {
      cell = null;
      text.value = "";
      show();
      text.focus();
    });
    find("filter-order").addEventListener("change", (event) => {
      const ordered = [...mistakes].sort(orders[event.target.value]);
      for (const each of ordered) each.parentElement.append(each);
    });
    find("filter-copy").addEventListener("click", () => {
      const area = paths.querySelector("textarea");
      const shown = [...document.querySelectorAll("[data-cell]:not([hidden])")].map((each) => each.dataset.path);
      area.value = shown.join("\n");
      paths.hidden = false;
      area.select();
      const done = document.execCommand("copy");
      find("filter-said").textContent = done ? `${count(shown.length)}: paths copied.` : "Copy the selected paths with Ctrl+C.";
    });
    for (const link of document.querySelectorAll('a[href^="#cell-"]')) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        cell = link.getAttribute("href").slice(1);
        text.value = "";
        show();
        const title = find("mistakes");
        title.scrollIntoView();
        title.focus({ preventScroll: true });
      });
    }
  }

  const marks = find("marks");
  if (marks) {
    const table = find("suspect-table");
    const head = document.createElement("th");
    head.scope = "col";
    head.dataset.plain = "";
    head.textContent = "Mark";
    table.tHead.rows[0].append(head);
    for (const row of table.tBodies[0].rows) {
      const choice = document.createElement("select");
      choice.setAttribute("aria-label", `Mark for ${row.dataset.path}`);
      for (const word of ["", "keep", "relabel", "ignore"]) choice.add(new Option(word || "-", word));
      row.insertCell().append(choice);
    }
    // A cell that a spreadsheet would take for a formula gets an apostrophe.
    const quoted = (field) => `"${(/^[=+\-@\t\r]/.test(field) ? `'${field}` : field).replaceAll('"', '""')}"`;
    marks.hidden = false;
    marks.querySelector("button").addEventListener("click", () => {
      const lines = [["path", "set", "label", "looks_like", "mark"]];
      for (const row of table.tBodies[0].rows) {
        const mark = row.querySelector("select").value;
        const cells = [...row.cells].slice(1, 4).map((each) => each.textContent.trim());
        if (mark) lines.push([row.dataset.path, ...cells, mark]);
      }
      const csv = lines.map((line) => line.map(quoted).join(",")).join("\r\n");
      const link = document.createElement("a");
      link.href = `data:text/csv;charset=utf-8,${encodeURIComponent(`${csv}\r\n`)}`;
      link.download = "label-marks.csv";
      link.click();
      marks.querySelector("[role=status]").textContent = `${count(lines.length - 1)} marked. No file was changed.`;
    });
  }

  // A line of a chart: its path, its vertices, and where one piece of it begins after a gap.
  const vertices = (path) => {
    const found = [];
    for (const [, letter, x, y] of path.getAttribute("d").matchAll(/([ML]) ?(-?[\d.]+) (-?[\d.]+)/g)) {
      found.push({ begins: letter === "M", x: Number(x), y: Number(y) });
    }
    return found;
  };

  // At each place the straight line that fits best there, its neighbours weighted by a bell curve of this deviation.
  const smoothed = (points, deviation) => points.map((at) => {
    let [s, sx, sxx, sy, sxy] = [0, 0, 0, 0, 0];
    for (const each of points) {
      const x = (each.x - at.x) / deviation;
      const w = Math.exp(-(x ** 2) / 2);
      s += w;
      sx += w * x;
      sxx += w * x * x;
      sy += w * each.y;
      sxy += w * x * each.y;
    }
    const spread = s * sxx - sx * sx;
    const y = spread > 1e-9 * s * s ? (sxx * sy - sx * sxy) / spread : sy / s;
    return `${at.begins ? "M" : "L"}${at.x} ${y.toFixed(2)}`;
  }).join("");

  const smooth = find("smooth");
  if (smooth) {
    const slider = find("smooth-width");
    const lines = [...document.querySelectorAll(".charts .smoothed > path:first-of-type")].map((raw) => ({ raw, points: vertices(raw), copy: null }));
    const spans = new Map(); // of the lines of a drawing, from the first vertex to the last
    for (const line of lines) {
      const drawing = line.raw.closest("svg");
      const places = lines.filter((each) => each.raw.closest("svg") === drawing).flatMap((each) => each.points.map((at) => at.x));
      spans.set(drawing, Math.max(...places) - Math.min(...places) || 1);
    }
    const redraw = () => {
      const share = Number(slider.value);
      const said = share ? `${share} % of the axis` : "off";
      find("smooth-said").textContent = said;
      slider.setAttribute("aria-valuetext", said);
      for (const line of lines) {
        line.raw.classList.toggle("faint", share > 0);
        line.copy?.remove();
        line.copy = null;
        if (!share || !line.raw.closest(".charts").offsetParent) continue; // another axis is chosen: later
        line.copy = line.raw.cloneNode();
        line.copy.classList.replace("faint", "smooth");
        line.copy.style.strokeWidth = Math.max(1.4, Number.parseFloat(line.raw.style.strokeWidth) || 1);
        line.copy.setAttribute("d", smoothed(line.points, (share / 100) * spans.get(line.raw.closest("svg"))));
        line.raw.after(line.copy);
      }
    };
    smooth.hidden = lines.length === 0;
    find("smooth-words").hidden = lines.length === 0;
    slider.addEventListener("input", redraw);
    for (const axis of document.querySelectorAll("input[name=axis]")) axis.addEventListener("change", redraw);
    redraw();
  }

  const reading = find("read-off");
  if (reading) {
    const slider = find("read-off-at");
    const total = Number(reading.dataset.total);
    const points = reading.dataset.points.split(" ").map((each) => each.split(":").map(Number));
    const line = document.querySelector(".charts .read-off > path");
    const places = line ? vertices(line) : [];
    const dot = document.createElementNS(reading.parentElement.querySelector("svg").namespaceURI, "circle");
    const percent = (part, whole) => `${((100 * part) / whole).toFixed(2)} %`;
    const read = () => {
      const [threshold, answered, wrong, low, high] = points[Number(slider.value)];
      const short = threshold.toFixed(3);
      const from = Number(short) === 1 && threshold < 1 ? String(threshold) : short;
      const said = `From ${from} on, ${answered.toLocaleString("en")} of ${count(total)} are answered (${((100 * answered) / total).toFixed(1)} %), ` +
        `${wrong.toLocaleString("en")} of them wrongly: error ${percent(wrong, answered)} (95 % ${percent(low, 1)} to ${percent(high, 1)}).`;
      find("read-off-said").textContent = said;
      slider.setAttribute("aria-valuetext", said);
      const place = places.length === points.length ? places[Number(slider.value)] : null;
      if (!place) return;
      dot.setAttribute("cx", place.x);
      dot.setAttribute("cy", place.y);
    };
    if (places.length === points.length) {
      dot.setAttribute("class", "place");
      dot.setAttribute("r", "6.5");
      line.closest("svg").append(dot);
    }
    reading.hidden = points.length < 2;
    slider.addEventListener("input", read);
    read();
  }

  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = Number.parseFloat(text.replaceAll(",", ""));
    return Number.isNaN(number) || column === 0 ? text : number;
  };

  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const head of table.tHead.querySelectorAll("th:not([data-plain])")) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((a, b) => compare(value(a, head.cellIndex), value(b, head.cellIndex)));
        body.append(...(down ? rows.reverse() : rows));
      });
    }
  }

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
  });
})();
