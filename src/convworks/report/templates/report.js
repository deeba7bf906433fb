"use strict";
// The page is complete without this: it filters the mistakes by a cell, sorts tables, opens details for print.
(() => {
  const mistakes = document.querySelectorAll("[data-cell]");
  const bar = document.getElementById("filter");

  const show = (cell) => {
    let found = 0;
    for (const each of mistakes) {
      each.hidden = cell !== null && each.dataset.cell !== cell;
      if (!each.hidden) {
        found += 1;
        if (cell !== null && each.closest("details")) each.closest("details").open = true;
      }
    }
    bar.hidden = cell === null;
    return found;
  };

  const names = (cell) => {
    const [, row, column] = cell.split("-").map(Number);
    const matrix = document.querySelector("table.confusion");
    if (!matrix) return "";
    const name = (element) => element.textContent.trim();
    return `: ${name(matrix.tBodies[0].rows[row].cells[0])} taken for ${name(matrix.tHead.rows[0].cells[column + 1])}`;
  };

  if (bar) {
    for (const link of document.querySelectorAll('a[href^="#cell-"]')) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        const cell = link.getAttribute("href").slice(1);
        const found = show(cell);
        bar.firstElementChild.textContent = `${found} ${found === 1 ? "image" : "images"}${names(cell)}.`;
        const title = document.getElementById("mistakes-title");
        title.scrollIntoView();
        title.focus({ preventScroll: true });
      });
    }
    bar.querySelector("button").addEventListener("click", () => show(null));
  }

  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = Number.parseFloat(text.replaceAll(",", ""));
    return Number.isNaN(number) || column === 0 ? text : number;
  };

  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const head of table.tHead.querySelectorAll("th")) {
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
