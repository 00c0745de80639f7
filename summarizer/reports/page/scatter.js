/* Two settings against each other, such as learning rate against dim: a dot for each run, colored by a metric. */

const dots = { x: null, y: null, metric: RANKED?.id };

function layScatter() {
  if (!RANKED) return by("scatter-chart").append(nothing("No run has a number to color a dot by."));
  const set = (field) => (value) => { dots[field] = value; paintAll(); };
  by("scatter-controls").append(
    select("scatter-x", "Across", [], "", set("x")),
    select("scatter-y", "Up", [], "", set("y")),
    select("scatter-metric", "Color", metricOptions(), dots.metric, set("metric")),
  );
  chart(by("scatter-chart"), paintScatter);
}

function paintScatter(box, width) {
  const why = tooFewSettings("A chart of two settings");
  by("scatter-controls").hidden = why !== null;
  if (why) return box.append(nothing(why));
  const keys = varyingHere();
  const options = [...keys.map((key) => [`s${key}`, DATA.swept[key].key]), ...metricOptions()];
  const known = (axis) => options.some(([id]) => id === axis);
  if (!known(dots.x) || !known(dots.y)) [dots.x, dots.y] = openingSettings().map((key) => `s${key}`);
  for (const axis of ["x", "y"]) refill(by(`scatter-${axis}`), options, dots[axis]);
  const [xOf, yOf, metric] = [axisOf(dots.x), axisOf(dots.y), metricOf(dots.metric)];
  const runs = shownRuns().filter((run) => xOf.of(run) && yOf.of(run));
  if (!runs.length) return box.append(nothing("None of the runs that are shown has both values."));
  const height = Math.round(Math.min(Math.max(width * 0.5, 280), 420));
  const ranking = rankingOf(metric);
  const bottomOf = (ticks) => height - xAxisDepth(ticks);
  const vertical = axisScale(yOf, runs, height - 50, 30);
  const left = widestTick(vertical.ticks.map((tick) => tick.text));
  const horizontal = axisScale(xOf, runs, left, width - 12, Math.max(2, Math.floor((width - left) / 90)));
  const bottom = bottomOf(horizontal.ticks);
  const up = axisScale(yOf, runs, bottom, 30);
  const svg = picture(width, height, `${counted(runs.length, "run")} by ${xOf.name} across and ${yOf.name} up, colored by ${metric.name}`);
  xAxis(svg, { ticks: horizontal.ticks, left, right: width - 12, y: bottom, label: xOf.label });
  yAxis(svg, { ticks: up.ticks, left, right: width - 12, label: yOf.label });
  const groups = new Map();
  for (const run of [...runs].sort((a, b) => (a === highlighted()) - (b === highlighted()) || ranking.first(b, a))) {
    const [x, y] = [horizontal.at(xOf.of(run)), up.at(yOf.of(run))];
    const id = `${x.toFixed(1)} ${y.toFixed(1)}`;
    groups.set(id, [...(groups.get(id) ?? []), { run, x, y }]);
  }
  const room = (horizontal.step || 60) - 18;
  const marks = [];
  for (const same of groups.values()) {
    const step = Math.min(17, room / Math.max(same.length - 1, 1));
    same.forEach(({ run, x, y }, i) => {
      const px = x + (i - (same.length - 1) / 2) * step;
      const value = metric.of(run);
      const main = run === highlighted();
      if (value === null) svg.append(draw("path", { d: `M${px - 5} ${y - 5}l10 10m0-10l-10 10`, class: "end failed" }));
      else {
        const dot = draw("circle", { cx: px, cy: y, r: main ? 10 : 7.5, fill: ranking.has(run) ? lineColor(ranking.share(run)) : "none", class: `dot${main ? " main" : ""}${run.status === "completed" ? "" : " unfinished"}` });
        dot.dataset.run = run.index;
        svg.append(dot);
      }
      marks.push({ x: px, y, run, words: [run.name, `${xOf.name} ${xOf.of(run).text}`, `${yOf.name} ${yOf.of(run).text}`, value === null ? `${run.status}, no ${metric.name}` : `${metric.name} ${metric.show(value)}`] });
      if (value !== null && runs.length <= 24 && step >= 15 && same.length === 1)
        svg.append(text(px, y - 14, metric.show(value), { anchor: "middle", className: main ? "label main" : "tick" }));
    });
  }
  marks.sort((a, b) => b.y - a.y || a.x - b.x);
  for (const mark of marks) mark.series = Math.round(mark.y);
  readable(box, svg, () => marks);
  if (ranking.known) box.append(colorBar(ranking, metric, lineColor));
  const notes = [];
  if ([...groups.values()].some((same) => same.length > 1)) notes.push("Runs at the same place stand beside each other.");
  if (runs.some((run) => metric.of(run) === null)) notes.push(`× has no ${metric.name}.`);
  if (runs.some((run) => run.status !== "completed" && metric.of(run) !== null)) notes.push("A dashed edge: it did not train to its end, and has no color beside those that did.");
  if (notes.length) box.append(make("p", "note", notes.join(" ")));
}
