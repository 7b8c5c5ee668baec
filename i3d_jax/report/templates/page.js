"use strict";
/* Tables that are sorted, searched and filtered; see table.html. Without this program all rows are there. */
for (const box of document.querySelectorAll("[data-table]")) {
  const body = box.querySelector("tbody");
  const rows = [...body.rows];
  const search = box.querySelector("input[type=search]");
  const filters = [...box.querySelectorAll("select[data-column]")];
  const told = box.querySelector("output");
  const heads = [...box.querySelectorAll("thead th")];

  const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const compare = new Intl.Collator("en", { numeric: true }).compare;

  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const numeric = head.classList.contains("n");
      const before = head.getAttribute("aria-sort");
      const down = before === "none" ? numeric : before === "ascending";
      heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = [...rows].sort((one, other) => {
        const [a, b] = [key(one, column), key(other, column)];
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = numeric ? a - b : compare(a, b);
        return down ? -order : order;
      });
      body.append(...sorted);
    });
  });

  const show = () => {
    const wanted = search ? search.value.trim().toLowerCase() : "";
    let shown = 0;
    for (const row of rows) {
      const found =
        row.textContent.toLowerCase().includes(wanted) &&
        filters.every((one) => !one.value || row.cells[one.dataset.column].textContent.trim() === one.value);
      row.hidden = !found;
      shown += found;
    }
    if (told) told.textContent = `${shown === rows.length ? "" : `${shown} of `}${rows.length} row${rows.length === 1 ? "" : "s"}`;
  };
  for (const field of [search, ...filters]) field?.addEventListener("input", show);
}

/* Confusion matrices, whose classes are put into another order or looked for; see matrix.html. */
for (const box of document.querySelectorAll("[data-matrix]")) {
  const body = box.querySelector("tbody");
  const head = box.querySelector("thead tr");
  const columns = [...head.cells].slice(1).map((cell) => +cell.dataset.class);
  const lines = [head, ...body.rows].map((row) => ({
    row,
    cells: new Map([...row.cells].slice(1).map((cell, at) => [columns[at], cell])),
  }));
  const buttons = [...box.querySelectorAll("[data-order]")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", other === button));
      const place = button.dataset.order.split(" ").map(Number);
      const order = [...columns].sort((a, b) => place[a] - place[b]);
      for (const { row, cells } of lines) row.append(...order.map((column) => cells.get(column)));
      body.append(...[...body.rows].sort((a, b) => place[+a.dataset.class] - place[+b.dataset.class]));
    });
  }
  const search = box.querySelector("input[type=search]");
  const told = box.querySelector("output");
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    const named = new Set();
    const shown = new Set();
    for (const row of body.rows) if (row.cells[0].textContent.toLowerCase().includes(wanted)) named.add(+row.dataset.class);
    /* With a class stand those that it is taken for, and those that are taken for it. */
    for (const { row, cells } of lines.slice(1)) {
      const own = +row.dataset.class;
      for (const [column, cell] of cells) {
        if (cell.textContent && (named.has(own) || named.has(column))) shown.add(own).add(column);
      }
      if (named.has(own)) shown.add(own);
    }
    for (const { row, cells } of lines) {
      if (row !== head) row.hidden = !shown.has(+row.dataset.class);
      for (const [column, cell] of cells) cell.hidden = !shown.has(column);
      if (row !== head) row.cells[0].classList.toggle("found", wanted !== "" && named.has(+row.dataset.class));
    }
    for (const [column, cell] of lines[0].cells) cell.classList.toggle("found", wanted !== "" && named.has(column));
    told.textContent = !wanted
      ? `${columns.length} classes`
      : named.size
        ? `${named.size} of ${columns.length} classes, and what they are confused with`
        : `none of the ${columns.length} classes here`;
  });
}

/* Animations, which a reader may stop, all at once; see cards.html. */
for (const button of document.querySelectorAll("[data-motion]")) {
  button.addEventListener("click", () => {
    const stop = button.getAttribute("aria-pressed") === "false";
    for (const other of document.querySelectorAll("[data-motion]")) other.setAttribute("aria-pressed", stop);
    for (const image of document.querySelectorAll("img[data-still]")) {
      image.dataset.moving ??= image.src;
      image.src = stop ? image.dataset.still : image.dataset.moving;
    }
  });
}

/* Plots of Vega-Lite; see plot.html. In a group with fields for the steps, all show the same ones; see curves.html. */
/* Marks without a name, such as that of a choice, are pictures to no one: the whole plot has one. */
const nameless = (chart) => {
  for (const mark of chart.querySelectorAll("[role=graphics-symbol]:not([aria-label])")) {
    mark.removeAttribute("role");
    mark.removeAttribute("aria-roledescription");
  }
};
for (const chart of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(chart.querySelector("script").textContent);
  chart.drawn = vegaEmbed(chart, spec, { actions: false, renderer: "svg", logLevel: 1 }).then((result) => {
    nameless(chart);
    return result.view;
  });
}
for (const group of document.querySelectorAll(".zoomed")) {
  const fields = [...group.querySelectorAll("[data-bound]")];
  const charts = [...group.querySelectorAll(".chart")];
  const whole = fields.map((field) => +field.value);

  const look = (first, last) => {
    if (!(first < last)) return;
    [fields[0].value, fields[1].value] = [first, last];
    for (const chart of charts) {
      chart.drawn.then((view) => view.signal("first", first).signal("last", last).runAsync()).then(() => nameless(chart));
    }
  };
  for (const field of fields) field.addEventListener("change", () => look(...fields.map((one) => +one.value)));
  group.querySelector("button").addEventListener("click", () => look(...whole));
  for (const chart of charts) {
    chart.addEventListener("pointerup", async () => {
      const view = await chart.drawn;
      const found = view.signal("brush")?.step;
      if (!found || found[0] === found[1]) return;
      /* Gone before the steps change, or it would grow with them. */
      await view.signal("brush_x", []).data("brush_store", []).runAsync();
      const [first, last] = found.map(Math.round);
      look(Math.max(first, whole[0]), Math.min(Math.max(last, first + 1), whole[1]));
    });
  }
}
