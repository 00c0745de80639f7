/* Losses and other metrics over the steps: a line for each run, with its name at its end while there are few. */

const HISTORIES = [...new Set(DATA.runs.flatMap((run) => Object.keys(run.history)))].sort();
const LOSSES = ["train/loss", "val/loss"];
const curves = {
  show: "losses", log: false, smooth: true,
  color: DATA.runs.length > 3 * FEW && DATA.swept.length ? "0" : "run",
};
const SMOOTHED = 20;  // training values are means over the last 1/20 of the longest run's points
const DIRECT = 8;  // lines that have their names at their ends

const HISTORY_NAMES = {
  "train/loss": "training loss", "val/loss": "validation loss", "train/lr": "learning rate", "train/grad_norm": "gradient norm",
  "train/tokens_per_s": "tokens per second", "train/memory_bytes": "memory in bytes", "train/mfu": "share of the device’s arithmetic (MFU)",
};

const historyName = (metric) =>
  HISTORY_NAMES[metric] ?? metric.replace("val/", "validation ").replace("train/", "training ").replace("rouge", "ROUGE-");

const historyUnit = (metric) => (metric.endsWith("loss") ? "cross-entropy, nats per token" : /rouge/.test(metric) ? "F1, percent" : "");

const historyValue = (metric, value) =>
  metric.endsWith("loss") ? value.toFixed(3) : /rouge/.test(metric) ? value.toFixed(2) : String(Number(value.toPrecision(4)));

const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);  // too many for Math.min's arguments

/* Each value as the mean of the last `window` up to it. Stops at a value that was not finite. */
function averaged(values, window) {
  const means = [];
  let sum = 0;
  for (let i = 0; i < values.length; i += 1) {
    if (values[i] === null) break;
    sum += values[i] - (i >= window ? values[i - window] : 0);
    means.push(sum / Math.min(i + 1, window));
  }
  return means;
}

function layCurves() {
  const shown = HISTORIES.some((metric) => LOSSES.includes(metric)) ? [["losses", "losses, training and validation"]] : [];
  const options = [...shown, ...HISTORIES.filter((metric) => !LOSSES.includes(metric)).map((metric) => [metric, historyName(metric)])];
  if (!options.length) return by("curves-charts").append(nothing("No run kept a history of its metrics, so there is no curve to draw."));
  curves.show = options[0][0];
  const repaint = (field) => (value) => { curves[field] = value; paintCurves(); };
  by("curves-controls").append(select("curves-show", "Show", options, curves.show, repaint("show")));
  if (DATA.swept.length)
    by("curves-controls").append(select("curves-color", "Color by", [...(DATA.runs.length > 3 * FEW ? [] : [["run", "run"]]), ...varying(DATA.runs).map((key) => [String(key), DATA.swept[key].key])], curves.color, repaint("color")));
  by("curves-controls").append(
    checkBox("logarithmic", curves.log, repaint("log"), "log"),
    checkBox("smooth training", curves.smooth, repaint("smooth"), "smooth"),
  );
  const boxes = [make("div", "panel"), make("div", "panel")];
  by("curves-charts").append(...boxes);
  boxes.forEach((box, i) => chart(box, (inside, width) => {
    const metrics = curves.show === "losses" ? LOSSES : [curves.show];
    if (i < metrics.length) paintCurve(inside, width, metrics[i]);
  }));
}

function paintCurves() {
  by("curves-charts").classList.toggle("one", curves.show !== "losses");
  paintAll();
}

function linesOf(metric) {
  const training = metric.startsWith("train/");
  const having = shownRuns().filter((run) => run.history[metric]);
  const first = having.find((run) => run.rowSet !== null) ?? having[0];
  /* The validation rows during training are other rows than those of the scores at the end: all that were measured alike compare. */
  const alike = (run) => training || run === first || (run.measured === null ? run.rowSet !== null && run.rowSet === first.rowSet : run.measured === first.measured);
  const runs = having.filter(alike);
  const longest = Math.max(0, ...runs.map((run) => run.history[metric].values.length));
  const window = training && curves.smooth ? Math.max(1, Math.floor(longest / SMOOTHED)) : 1;
  const lines = runs.map((run) => {
    const { steps, values } = run.history[metric];
    const means = averaged(values, window);
    return { run, steps: steps.slice(0, means.length), values: means, broke: means.length < values.length };
  }).filter((line) => line.values.length);
  return { lines, window, left: having.length - runs.length };
}

function paintCurve(box, width, metric) {
  const { lines, window, left: leftOut } = linesOf(metric);
  const heading = make("h3", "", historyName(metric));
  box.append(heading);
  if (!lines.length) return box.append(nothing(DATA.runs.some((run) => run.history[metric]) ? `None of the runs that are shown has a ${historyName(metric)}.` : `No run recorded a ${historyName(metric)}.`));
  const key = curves.color === "run" ? null : Number(curves.color);
  const few = lines.length <= DIRECT && width >= 480;
  const named = few ? lines : lines.filter((line) => line.run === highlighted());
  const names = named.map((line) => fitted(shortName(line.run), few ? Math.min(190, width * 0.3) : 120));
  const right = width - (few || width >= 480 ? Math.max(8, ...names.map((name) => widthOf(name, "600") + 14)) : 8);
  const height = Math.round(Math.min(Math.max(width * 0.55, 260), 400));
  const bottom = height - 46;
  const rising = !metric.endsWith("loss");
  const all = lines.flatMap((line) => line.values);
  let [low, high] = [least(all), -least(all.map((value) => -value))];
  const tops = lines.map((line) => Math.max(...line.values)).sort((a, b) => a - b);
  const usual = tops[Math.floor((tops.length - 1) / 2)];
  const limit = usual + 0.5 * (usual - low);  // what diverges leaves the picture rather than flattening the rest
  const grown = rising || lines.length < 3 ? 0 : tops.filter((top) => top > limit).length;
  if (grown) high = limit;
  const logs = curves.log && low > 0;
  const plain = (logs ? logarithmic : linear)(low, high, bottom, 34);
  const texts = plain.ticks.map((tick) => tick.text);
  const left = widestTick(texts);
  const [first, last] = [Math.min(...lines.map((line) => line.steps[0])), Math.max(...lines.map((line) => line.steps.at(-1)))];
  const x = linear(first, last === first ? first + 1 : last, left, right, Math.max(2, Math.floor((right - left) / 90)));
  const svg = picture(width, height, `${historyName(metric)} of ${counted(lines.length, "run")} over the optimizer steps`);
  yAxis(svg, { ticks: plain.ticks.map((tick) => ({ at: plain.at(tick.value), text: tick.text })), left, right, label: historyUnit(metric) + (logs ? ", logarithmic" : "") });
  xAxis(svg, { ticks: x.ticks.filter((tick) => Number.isInteger(tick.value)).map((tick) => ({ at: x.at(tick.value), text: numberText(tick.value, 0) })), left, right, y: bottom, label: "optimizer step" });
  const ends = [];
  const clip = (value) => Math.max(plain.at(value), 30);
  const onTop = [...lines].sort((a, b) => (a.run === highlighted()) - (b.run === highlighted()));
  for (const line of onTop) {
    const look = lookOf(line.run, key);
    const main = line.run === highlighted();
    const dots = line.values.map((value, i) => [x.at(line.steps[i]), clip(value)]);
    const path = draw("path", { d: `M${dots.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L")}`, class: `line${main ? " main" : lines.length > 20 ? " many" : ""}`, stroke: look.color, "stroke-dasharray": look.dash });
    path.dataset.run = line.run.index;
    svg.append(path);
    if (dots.length === 1) svg.append(draw("circle", { cx: dots[0][0], cy: dots[0][1], r: 3, fill: look.color }));
    const [ex, ey] = dots.at(-1);
    if (line.run.status === "failed" || line.broke) svg.append(draw("path", { d: `M${ex - 4} ${ey - 4}l8 8m0-8l-8 8`, class: "end failed" }));
    else if (line.run.status === "stopped") svg.append(draw("rect", { x: ex - 3.5, y: ey - 3.5, width: 7, height: 7, fill: look.color }));
    if (named.includes(line)) ends.push({ y: ey + 4, x: ex, name: names[named.indexOf(line)], main, title: line.run.name, color: look.color });
  }
  const marks = () => lines.flatMap((line) => line.values.map((value, i) => ({ x: x.at(line.steps[i]), y: clip(value), run: line.run, series: line.run.index, words: [line.run.name, `step ${line.steps[i].toLocaleString("en")}`, `${historyName(metric)} ${historyValue(metric, value)}`] })));
  if (width >= 480)
    for (const end of apart(ends, 15, 40, bottom)) {
      svg.append(draw("line", { x1: end.x + 3, x2: right + 9, y1: end.y - 4, y2: end.y - 4, class: "leader" }));
      svg.append(text(right + 12, end.y, end.name, { className: end.main ? "label main" : "label", title: end.title }));
    }
  readable(box, svg, marks);
  box.append(curveLegend(lines, key, few));
  const notes = [];
  if (window > 1) notes.push(`Each point is the mean of ${window} logged values up to it.`);
  const pooled = Math.max(...lines.map((line) => line.run.history[metric].meanOf));
  if (pooled > 1) notes.push(`Up to ${pooled} neighboring steps stand in one point.`);
  if (grown) notes.push(`${counted(grown, "line")} ${grown === 1 ? "leaves" : "leave"} the picture at its top.`);
  if (curves.log && !logs) notes.push("Not logarithmic: some values are not above 0.");
  if (lines.some((line) => line.run.status === "failed" || line.broke)) notes.push("×: the run failed there.");
  if (lines.some((line) => line.run.status === "stopped")) notes.push("■: it was stopped there.");
  if (leftOut) notes.push(`${counted(leftOut, "run")} left out, since ${leftOut === 1 ? "its" : "their"} values are not known to be of the same rows.`);
  const few_rows = [...new Set(lines.map((line) => line.run.rougeRows))];
  if (/rouge/.test(metric) && few_rows.length === 1 && few_rows[0])
    notes.push(`Of at most ${counted(few_rows[0], "row")} at each evaluation: its ups and downs are mostly chance.`);
  if (notes.length) box.append(make("p", "note", notes.join(" ")));
}

/* Names of lines where they do not stand at the lines' ends; values of the setting that gives the colors. */
function curveLegend(lines, key, few) {
  const swatch = (look) => draw("svg", { width: 26, height: 10, "aria-hidden": "true" }, draw("line", { x1: 0, x2: 26, y1: 5, y2: 5, class: "line key", stroke: look.color, "stroke-dasharray": look.dash }));
  const entry = (look, words) => make("span", "entry", swatch(look), words);
  if (key !== null) {
    const byPlace = new Map(lines.map((line) => [line.run.at[key], line.run]));
    const places = [...byPlace.keys()].sort((a, b) => a - b);
    const kept = places.length <= CATEGORIES ? places : [places[0], places[Math.floor(places.length / 2)], places.at(-1)];
    return make("p", "legend", make("span", "", DATA.swept[key].label), ...kept.map((place) => entry(lookOf(byPlace.get(place), key), DATA.swept[key].values[place].text)));
  }
  if (few) return "";
  return make("p", "legend", ...lines.map((line) => entry(lookOf(line.run, null), shortName(line.run))));
}
