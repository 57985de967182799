// Tables: a heading sorts the rows of each group, so baselines stay below; predictors get the line that they have in the plots.

function startTables() {
  const numbers = new Map(DATA.series.map(({ name }, number) => [name, number]));
  for (const heading of document.querySelectorAll("table.scores tbody th, table.numbers tbody th")) {
    const number = numbers.get(heading.textContent);
    if (number !== undefined) heading.prepend(swatch(number));
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => makeSortable(table, heading, column));
  }
}

function makeSortable(table, heading, column) {
  const button = element("button", { type: "button" }, ...heading.childNodes);
  button.addEventListener("click", () => {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    for (const group of table.tBodies) {
      group.append(...[...group.rows].sort((one, other) => compareCells(one.cells[column], other.cells[column], descending)));
    }
  });
  heading.append(button);
}

// Numbers by value, texts by their words; cells without a number come last either way.
function compareCells(one, other, descending) {
  const sign = descending ? -1 : 1;
  const [first, second] = [one, other].map((cell) => (cell.dataset.value === undefined ? null : Number(cell.dataset.value)));
  if (first !== null && second !== null) return sign * (first - second);
  if (first !== null || second !== null) return first === null ? 1 : -1;
  return sign * one.textContent.localeCompare(other.textContent, undefined, { numeric: true });
}
