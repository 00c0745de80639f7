/* An axis for each setting and for the scores; a line for each run across them. */

const MOST_AXES = 9;
const LEAST_SETTINGS = 2;  // that have an axis, however narrow the page
const AXIS_ROOM = 92;  // pixels from an axis to the next
const across = { metric: RANKED?.id };

function layParallel() {
  const why = DATA.runs.length < 2 ? `Lines across settings need several runs; there is only ${DATA.runs.length ? "one" : "none"} here.`
    : RANKED ? null : "No run has a number to show beside its settings.";
  if (why) return by("parallel-chart").append(nothing(why));
  by("parallel-controls").append(select("parallel-metric", "Color and last axis", metricOptions(), across.metric, (value) => { across.metric = value; paintAll(); }));
  chart(by("parallel-chart"), paintParallel);
}

function paintParallel(box, width) {
  const metric = metricOf(across.metric);
  const keys = varyingHere();
  if (!keys.length) return box.append(nothing("The configs of these runs are the same, so there is no setting to draw an axis for."));
  const runs = shownRuns().filter((run) => metric.of(run) !== null);
  const without = shownRuns().length - runs.length;
  if (!runs.length) return box.append(nothing(`None of the runs that are shown has a value of ${metric.name}.`));
  const settings = keys.map(settingAxis);
  const loss = metricOf("loss");
  const scores = [loss && loss !== metric && runs.some((run) => loss.of(run) !== null) ? loss : null, metric].filter(Boolean).map(metricAxis);
  const margin = 52;
  const room = Math.min(MOST_AXES, Math.floor((width - 2 * margin) / AXIS_ROOM) + 1);  // what is past the edge is not seen
  const axes = [...settings.slice(0, Math.max(room - scores.length, LEAST_SETTINGS)), ...scores];
  const gap = Math.max((width - 2 * margin) / Math.max(axes.length - 1, 1), 60);
  const whole = 2 * margin + gap * Math.max(axes.length - 1, 1);
  const height = 340;
  const [top, bottom] = [48, height - 22];
  const placed = axes.map((axis, i) => {
    const among = runs.filter((run) => axis.of(run));
    return { axis, x: margin + i * gap, scale: axis.metric?.lower ? axisScale(axis, among, top, bottom) : axisScale(axis, among, bottom, top) };
  });
  const svg = picture(Math.round(whole), height, `${counted(runs.length, "run")} across ${axes.map((axis) => axis.name).join(", ")}`);
  const ranking = rankingOf(metric);
  const marks = [];
  const lines = [...runs].sort((a, b) => (a === highlighted()) - (b === highlighted()) || ranking.first(b, a));
  for (const run of lines) {
    const dots = placed.map(({ axis, x, scale }) => [x, axis.of(run) ? scale.at(axis.of(run)) : null, axis]).filter(([, y]) => y !== null);
    const bends = dots.map(([x, y], i) => {
      if (!i) return `M${x} ${y.toFixed(1)}`;
      const [px, py] = dots[i - 1];
      const half = (x - px) / 2;
      return `C${px + half} ${py.toFixed(1)} ${x - half} ${y.toFixed(1)} ${x} ${y.toFixed(1)}`;
    });
    const main = run === highlighted();
    if (main) svg.append(draw("path", { d: bends.join(""), class: "line halo" }));
    const colored = ranking.has(run);
    const path = draw("path", {
      d: bends.join(""), class: `line${main ? " main" : runs.length > 20 ? " many" : ""}${colored || main ? "" : " unfinished"}`,
      stroke: main ? "currentColor" : colored ? lineColor(ranking.share(run)) : "", "stroke-dasharray": colored ? "" : "5 4",
    });
    path.dataset.run = run.index;
    svg.append(path);
    for (const [x, y, axis] of dots) marks.push({ x, y, run, series: run.index, words: [run.name, `${axis.name} ${axis.of(run).text}`, `${metric.name} ${metric.show(metric.of(run))}`] });
  }
  placed.forEach(({ axis, x, scale }, i) => {
    svg.append(draw("line", { x1: x, x2: x, y1: top - 6, y2: bottom + 6, class: "axis" }));
    const anchor = i === 0 ? "start" : i === axes.length - 1 ? "end" : "middle";
    const at = i === 0 ? 0 : i === axes.length - 1 ? whole : x;
    svg.append(text(at, 16, fitted(axis.name, gap - 8), { anchor, className: "axis-name", title: axis.label }));
    if (axis.metric) svg.append(text(at, 32, axis.metric.lower ? "lower is better ↑" : "higher is better ↑", { anchor }));
    for (const tick of scale.ticks) {
      const [outer, end] = [i === 0 || i === axes.length - 1, i === 0 ? "end" : "start"];
      svg.append(draw("line", { x1: x - 3, x2: x + 3, y1: tick.at, y2: tick.at, class: "axis" }));
      svg.append(text(i === 0 ? x - 8 : x + 7, tick.at + (outer ? 4 : -4), fitted(tick.text, outer ? margin - 10 : 80), { anchor: end, className: "tick haloed", title: tick.text }));
    }
  });
  const scroller = make("div", "scroller");
  box.append(scroller);
  readable(scroller, svg, () => marks);
  box.append(colorBar(ranking, metric, lineColor));
  const notes = highlighted() && runs.includes(highlighted()) ? [`The thick line is ${highlighted().name}.`] : [];
  if (!runs.every(ranking.has)) notes.push("A dashed line: it did not train to its end, and has no color beside those that did.");
  if (without) notes.push(`${counted(without, "run")} without ${metric.name} ${without === 1 ? "is" : "are"} left out.`);
  if (settings.length + scores.length > axes.length) notes.push(`The first ${axes.length - scores.length} of ${settings.length} settings have an axis.`);
  box.append(make("p", "note", notes.join(" ")));
}
