"use strict";
// The page is complete without this: it filters, orders and lists the mistakes, keeps marks and sorts tables.
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
