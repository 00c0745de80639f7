/* A table for each row set, and one for the runs that were never scored. Headings sort it. */

const MOST_SETTINGS = 3;  // that stand beside the scores; the others are folded with the figures
const PLAIN = ["time", "speed", "memory", "size"];  // figures that say nothing of how good a run is
const SIGNIFICANCE = DATA.rankedBy.startsWith("rouge") ? DATA.rankedBy : "rougeLsum";

/* Columns: heading, title, cell of a run, and what it is sorted by; `of` null stands last either way.

   The score that ranks the runs stands first, beside their names, so that it is seen at any width; what is `folded` is
   shown when it is asked for. */
function columnsOf(runs) {
  const keys = runs.length > 1 ? varying(runs) : DATA.swept.map((_, key) => key).slice(0, 4);
  const settings = keys.map((key) => ({
    name: DATA.swept[key].key, title: DATA.swept[key].label, of: (run) => run.at[key], cell: (run) => make("span", "value", valueText(run, key)),
    numeric: DATA.swept[key].values.some((value) => value.number !== null),
  }));
  const inTable = (metric) => metric.id !== "best" || runs.every((run) => run.rowSet === null);  // the final scores say more
  const numbers = METRICS.filter((metric) => inTable(metric) && runs.some((run) => metric.of(run) !== null)).map((metric) => ({
    name: metric.name, title: metricLabel(metric), unit: metric.unit, numeric: true, of: metric.of, down: !metric.lower, metric,
    cell: (run) => {
      const value = metric.of(run);
      if (value === null) return null;
      const shown = scored(metric, intervalOf(run.scores, metric) ?? { value });
      const behind = metric.id in (run.scores?.faithfulness ?? {}) ? run.best_minus_this?.[metric.id] : null;
      if (behind) shown.append(make("small", "", `best ${signed(behind.mean.value, 1)}, ${pText(behind.p_adjusted)}`));
      return shown;
    },
  }));
  const ranking = (column) => Number(column.metric !== RANKED) + Number(column.metric !== RANKED && column.metric.id !== SIGNIFICANCE);
  numbers.sort((a, b) => ranking(a) - ranking(b));
  for (const column of numbers) column.folded = PLAIN.includes(column.metric.id);
  const place = numbers.findIndex((column) => column.metric.id === SIGNIFICANCE) + 1;
  const against = {
    name: "behind the best", title: `${variantName(SIGNIFICANCE)} of the best run minus this run’s, paired over the same rows, with the 95 % interval and p of this pair alone, and p adjusted after Holm for all pairs`,
    unit: `${variantName(SIGNIFICANCE)}, paired`, numeric: true, of: (run) => run.best_minus_this?.[SIGNIFICANCE]?.mean.value ?? null,
    cell: (run) => {
      const difference = run.best_minus_this?.[SIGNIFICANCE];
      if (!difference) return runs.some((other) => other.best_minus_this?.[SIGNIFICANCE]) && DATA.rowSets[run.rowSet]?.best === run.index ? "best" : null;
      const { value: mean, low, high } = difference.mean;
      return make("span", "", signed(mean, 2), make("small", "", `${signed(low, 2)} to ${signed(high, 2)}`), make("small", "p", pTexts(difference)));
    },
  };
  if (runs.some((run) => run.best_minus_this?.[SIGNIFICANCE])) numbers.splice(place, 0, against);
  const status = { name: "status", title: "status", of: (run) => STATUSES.indexOf(run.status), cell: statusCell, folded: runs.every((run) => run.status === "completed") };
  /* A setting that the names say need not be said again. */
  settings.forEach((column, i) => {
    const key = column.name.split(".").at(-1);
    column.folded = i >= MOST_SETTINGS || runs.some((run) => new RegExp(`(^|[ .])${RegExp.escape?.(key) ?? key.replace(/\W/g, "\\$&")}=`).test(run.name));
  });
  const [scores, figures] = [numbers.filter((column) => !column.folded), numbers.filter((column) => column.folded)];
  const all = [...scores, ...settings.filter((column) => !column.folded), status, ...settings.filter((column) => column.folded), ...figures];
  return all.sort((a, b) => Boolean(a.folded) - Boolean(b.folded));
}

/* The p that belongs to the interval, and the adjusted one that decides; one where they agree. */
function pTexts({ p_value: own, p_adjusted: adjusted }) {
  return pText(own) === pText(adjusted ?? own) ? pText(own) : `${pText(own)}, Holm ${pText(adjusted).replace("p = ", "").replace("p < ", "< ")}`;
}

const statusCell = (run) => make("span", `status ${["completed", "stopped", "failed", "running"].includes(run.status) ? run.status : ""}`, run.status);

const intervalOf = (scores, metric) => scores?.rouge[metric.id] ?? scores?.faithfulness[metric.id];

/* A score, its 95 % interval under it. */
function scored(metric, { value, low, high }) {
  const shown = make("span", "", metric.show(value));
  if (low !== undefined && low !== null) shown.append(make("small", "", `${metric.show(low)} to ${metric.show(high)}`));
  return shown;
}

function runTable(caption, runs, systems) {
  const columns = columnsOf(runs);
  const table = make("table", "runs", make("caption", "", caption));
  const all = make("input");
  Object.assign(all, { type: "checkbox", title: "Show all of them in the charts, or none" });
  all.setAttribute("aria-label", "Show all of them in the charts, or none");
  all.addEventListener("change", () => {
    for (const run of runs.filter(passesFilters)) chosen.unchecked[all.checked ? "delete" : "add"](run.index);
    changed();
  });
  const byName = [...runs].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  const heads = [{ name: "run", title: "name", of: (run) => byName.indexOf(run) }, ...columns].map((column) => {
    const head = make("th", kindOf(column));
    const sort = button("", () => sortBy(column), "sort");
    sort.append(make("span", "", column.name));
    if (column.unit) sort.append(make("small", "", column.unit));
    sort.title = `Sort by ${column.title}`;
    head.scope = "col";
    head.append(sort);
    return { head, column };
  });
  const boxHead = make("th", "box", all);
  boxHead.scope = "col";
  table.append(make("thead", "", make("tr", "", boxHead, ...heads.map(({ head }) => head))));
  const rows = new Map(runs.map((run) => [run, runRow(run, columns)]));
  const body = make("tbody", "", ...[...rows.values()].map(({ row }) => row));
  table.append(body);
  if (systems.length) table.append(make("tbody", "systems", ...systems.map((system) => systemRow(system, columns))));
  let sorted = opensSorted(runs, columns);
  mark();

  function sortBy(column) {
    sorted = sorted.column === column ? { column, down: !sorted.down } : { column, down: Boolean(column.down) };
    mark();
    const order = [...runs].sort((a, b) => {
      const [x, y] = [column.of(a), column.of(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;
      return (sorted.down ? y - x : x - y) || a.index - b.index;
    });
    body.replaceChildren(...order.map((run) => rows.get(run).row));
  }

  function mark() {
    for (const { head, column } of heads) {
      if (column === sorted.column) head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  function update() {
    for (const [run, { row, box, name }] of rows) {
      row.hidden = !passesFilters(run);
      row.classList.toggle("off", chosen.unchecked.has(run.index));
      row.classList.toggle("chosen", chosen.highlighted === run.index);
      box.checked = !chosen.unchecked.has(run.index);
      name.setAttribute("aria-pressed", String(chosen.highlighted === run.index));
    }
    const on = runs.filter(isShown).length;
    all.checked = on > 0;
    all.indeterminate = on > 0 && on < runs.filter(passesFilters).length;
  }
  whenChanged(update);
  update();
  const scroller = make("div", "scroller", table);
  scroller.tabIndex = 0;
  scroller.setAttribute("role", "region");
  scroller.setAttribute("aria-label", caption);
  const wider = make("p", "note sideways", "The table goes on to the right: scroll it sideways.");
  new ResizeObserver(() => { wider.hidden = scroller.scrollWidth <= scroller.clientWidth; }).observe(scroller);
  const folded = columns.filter((column) => column.folded);
  if (!folded.length) return [scroller, wider];
  const words = `Show ${folded.map((column) => column.name).join(", ")}`;
  const more = button(words, () => {
    const open = table.classList.toggle("unfolded");
    more.textContent = open ? "Show less" : words;
    more.setAttribute("aria-expanded", String(open));
  }, "small unfold");
  more.setAttribute("aria-expanded", "false");
  return [scroller, wider, more];
}

const kindOf = (column) => `${column.numeric ? "number" : ""}${column.folded ? " folded" : ""}`.trim();

/* What the rows are sorted by as the page opens: the score that ranks them, if it does. */
function opensSorted(runs, columns) {
  const column = columns.find((one) => one.metric && one.metric === RANKED);
  const inOrder = column && runs.length > 1 && runs.every((run, i) => !i || betterFirst(RANKED)(runs[i - 1], run) <= 0);
  return inOrder ? { column, down: Boolean(column.down) } : { column: null, down: false };
}

function runRow(run, columns) {
  const box = make("input");
  Object.assign(box, { type: "checkbox", name: "run", checked: true });
  box.setAttribute("aria-label", `Show ${run.name} in the charts`);
  box.addEventListener("change", () => {
    chosen.unchecked[box.checked ? "delete" : "add"](run.index);
    changed();
  });
  const name = button(run.name, () => highlight(run), "name");
  name.title = `Highlight ${run.name} in all charts`;
  const head = make("th", "name", name);
  head.scope = "row";
  const isBest = run.rowSet !== null && DATA.rowSets[run.rowSet].best === run.index;
  if (isBest) head.append(make("span", "badge", "best"));
  const row = make("tr", isBest ? "best" : "", make("td", "box", box), head);
  row.dataset.run = run.index;
  for (const column of columns) row.append(cellOf(column, column.cell(run)));
  return { row, box, name };
}

function systemRow(system, columns) {
  const head = make("th", "name", system.name);
  head.scope = "row";
  const row = make("tr", "", make("td", "box", ""), head);
  for (const column of columns) {
    const interval = column.metric ? intervalOf(system, column.metric) : null;
    const value = column.metric?.id === "loss" ? system.loss : interval?.value;
    row.append(cellOf(column, value === undefined || value === null ? "" : scored(column.metric, interval ?? { value })));
  }
  return row;
}

const cellOf = (column, content) => make("td", kindOf(column), content === null ? make("span", "none", "–") : content);

function layTables() {
  const box = by("tables");
  DATA.rowSets.forEach((set, i) => {
    box.append(...runTable(`Scored on ${rowSetName(set)}; ROUGE by the tokenizer ${set.tokenizer}`, DATA.runs.filter((run) => run.rowSet === i), set.systems));
  });
  const unscored = DATA.runs.filter((run) => run.rowSet === null);
  if (unscored.length) box.append(...runTable("Without final scores", unscored, []));
  if (DATA.runs.some((run) => run.best_minus_this?.[SIGNIFICANCE])) box.append(make("p", "note",
    `Behind the best: how much ${variantName(SIGNIFICANCE)} a run is short of the best one, row by row on the same rows, with the 95 % interval; p says how likely so large a difference would be if both were equally good. Both are of that pair alone; what is significant is decided by p adjusted after Holm for comparing many. The best was chosen on these very rows, which flatters its lead a little.`));
  if (!DATA.runs.length) box.append(nothing("There is no run to show."));
}
