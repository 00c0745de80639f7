/* The best value of a metric for each pair of two settings' values. */

const MOST_CELLS = 24;  // values along an axis
const heat = { x: null, y: null, metric: RANKED?.id };

/* The two settings that charts of two open on. */
const openingSettings = () => DATA.spanning[chosen.rowSet].slice(0, 2);

function layHeatmap() {
  if (!RANKED) return by("heatmap-chart").append(nothing("No run has a number to color a cell by."));
  const controls = by("heatmap-controls");
  const choose = (field) => (value) => {
    const other = field === "x" ? "y" : "x";
    if (Number(value) === heat[other]) heat[other] = heat[field];
    heat[field] = Number(value);
    paintAll();
  };
  controls.append(
    select("heatmap-x", "Across", [], "", choose("x")),
    select("heatmap-y", "Up", [], "", choose("y")),
    select("heatmap-metric", "Color", metricOptions(), heat.metric, (value) => { heat.metric = value; paintAll(); }),
  );
  chart(by("heatmap-chart"), paintHeatmap);
}

/* Why a chart of two settings has nothing to show, or null. */
function tooFewSettings(what) {
  if (DATA.runs.length < 2) return `${what} needs several runs; there is only ${DATA.runs.length ? "one" : "none"} here.`;
  const keys = varyingHere();
  if (!keys.length) return `${what} needs settings that differ, and the configs of these runs are the same.`;
  if (keys.length === 1) return `${what} needs two settings that differ; only ${DATA.swept[keys[0]].key} does here. The chart of all settings shows it.`;
  return null;
}

function paintHeatmap(box, width) {
  const why = tooFewSettings("A heat map");
  by("heatmap-controls").hidden = why !== null;
  if (why) return box.append(nothing(why));
  const keys = varyingHere();
  if (!keys.includes(heat.x) || !keys.includes(heat.y)) [heat.x, heat.y] = openingSettings();
  for (const axis of ["x", "y"]) refill(by(`heatmap-${axis}`), keys.map((key) => [String(key), DATA.swept[key].key]), String(heat[axis]));
  const runs = shownRuns();
  const metric = metricOf(heat.metric);
  if (!runs.length) return box.append(nothing("No run is shown: all boxes are off."));
  const [across, up] = [DATA.swept[heat.x], DATA.swept[heat.y]];
  for (const swept of [across, up])
    if (swept.values.length > MOST_CELLS)
      return box.append(nothing(`${swept.key} has ${swept.values.length} different values, too many for cells of a size to be read. The chart below shows them to scale.`));
  const used = (key) => [...new Set(runs.map((run) => run.at[key]))].sort((a, b) => a - b);
  const [columns, rows] = [used(heat.x), used(heat.y)];
  const cells = new Map();
  const ranking = rankingOf(metric);
  for (const run of ranking.runs.filter(isShown)) {
    const id = `${run.at[heat.x]} ${run.at[heat.y]}`;
    cells.set(id, [...(cells.get(id) ?? []), run]);
  }
  const first = [...cells.values()].map(([run]) => run);
  const left = widestTick(rows.map((place) => up.values[place].text));
  const cell = Math.min(132, (width - left - 8) / columns.length);
  const tall = Math.min(Math.max(34, cell * 0.62), 60);
  const ticks = columns.map((place, i) => ({ at: left + (i + 0.5) * cell, text: across.values[place].text }));
  const top = 28;
  const bottom = top + rows.length * tall;
  const right = left + columns.length * cell;
  const svg = picture(width, bottom + xAxisDepth(ticks), `${metric.name} by ${across.key} across and ${up.key} up, best of each cell`);
  xAxis(svg, { ticks, left, right: Math.max(right, left + 120), y: bottom, label: across.label });
  yAxis(svg, { ticks: rows.map((place, i) => ({ at: bottom - (i + 0.5) * tall, text: up.values[place].text })), left, right, label: up.label, lines: false });
  const marks = [];
  const best = ranking.runs.find((run) => isShown(run) && run.status === "completed" && metric.of(run) !== null);
  rows.forEach((place, i) => columns.forEach((column, j) => {
    const inside = cells.get(`${column} ${place}`);
    const [x, y] = [left + j * cell, bottom - (i + 1) * tall];
    const middle = { x: x + cell / 2, y: y + tall / 2 };
    const words = [`${across.key} ${across.values[column].text}, ${up.key} ${up.values[place].text}`];
    if (!inside) {
      svg.append(text(middle.x, middle.y + 4, "–", { anchor: "middle" }));
      return marks.push({ ...middle, run: null, series: i, words: [...words, "no run"] });
    }
    const [run] = inside;
    const value = metric.of(run);
    const rgb = ranking.has(run) ? cividis(ranking.share(run)) : null;
    const square = draw("rect", { x: x + 1, y: y + 1, width: cell - 2, height: tall - 2, class: rgb ? "cell" : "cell empty" });
    if (rgb) square.setAttribute("fill", css(rgb));
    square.dataset.run = run.index;
    svg.append(square);
    if (run === best || run === highlighted()) svg.append(draw("rect", { x: x + 3, y: y + 3, width: cell - 6, height: tall - 6, class: rgb && needsWhite(rgb) ? "frame-of white" : "frame-of" }));
    const shown = value === null ? (cell > 50 ? `× ${run.status}` : "×") : metric.show(value);
    const mark = run.status !== "completed" && value !== null ? "■ " : "";
    if (cell >= 34) svg.append(text(middle.x, middle.y + 4, fitted(mark + shown, cell - 6), { anchor: "middle", className: `in-cell${rgb && needsWhite(rgb) ? " white" : ""}${rgb ? "" : " plain"}${run === best ? " main" : ""}` }));
    marks.push({ ...middle, run, series: i, words: [...words, value === null ? `${run.status}, no ${metric.name}` : `${metric.name} ${metric.show(value)}`, ...(run.status === "completed" || value === null ? [] : [run.status]), ...(inside.length > 1 ? [`best of ${inside.length} runs: ${run.name}`] : [])] });
  }));
  readable(box, svg, () => marks);
  if (ranking.known) box.append(colorBar(ranking, metric));
  const notes = [];
  const others = keys.filter((key) => key !== heat.x && key !== heat.y).map((key) => DATA.swept[key].key);
  if ([...cells.values()].some((inside) => inside.length > 1)) notes.push(`Each cell is the best over ${others.join(", ") || "its runs"}.`);
  if (first.some((run) => metric.of(run) === null)) notes.push("× has no value.");
  const unfinished = first.filter((run) => run.status !== "completed" && metric.of(run) !== null);
  if (unfinished.length) notes.push(unfinished.every(ranking.has) ? "■ did not train to its end." : "■ did not train to its end, so it has no color beside those that did.");
  if (best) notes.push("The framed cells are the best and the highlighted run.");
  box.append(make("p", "note", notes.join(" ")));
}
