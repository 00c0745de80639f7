/* The expected best value of fewer trials: a line for each kind of adapter of a sweep. */

function layBudget() {
  const drawn = DATA.sweeps.filter((sweep) => Object.keys(sweep.expectedBest).length);
  by("budget").hidden = !drawn.length;
  document.querySelector('nav a[href="#budget"]').hidden = !drawn.length;
  for (const sweep of drawn) {
    const box = make("div", "panel");
    by("budget-charts").append(box);
    chart(box, (inside, width) => paintBudget(inside, width, sweep));
  }
}

function paintBudget(box, width, sweep) {
  if (DATA.sweeps.length > 1) box.append(make("h3", "", sweep.source));
  const lines = Object.entries(sweep.expectedBest);
  const named = lines.length > 1;
  const height = Math.round(Math.min(Math.max(width * 0.45, 240), 340));
  const bottom = height - 46;
  const values = lines.flatMap(([, of]) => of);
  const most = Math.max(...lines.map(([, of]) => of.length));
  const y = linear(least(values), -least(values.map((value) => -value)), bottom, 34);
  const left = widestTick(y.ticks.map((tick) => tick.text));
  const right = width - (named ? Math.max(...lines.map(([kind]) => widthOf(kind, "600"))) + 24 : 16);
  const x = linear(1, Math.max(most, 2), left, right, Math.max(2, Math.min(most, Math.floor((right - left) / 60))));
  const svg = draw("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img",
    "aria-label": `Expected best ${sweep.metric} against the number of trials: ${lines.map(([kind, of]) => `${kind} ${of.map((value) => value.toFixed(sweep.decimals)).join(", ")}`).join("; ")}`,
  });
  yAxis(svg, { ticks: y.ticks.map((tick) => ({ at: y.at(tick.value), text: tick.text })), left, right, label: `expected best ${sweep.metric}, ${sweep.unit}` });
  xAxis(svg, { ticks: x.ticks.filter((tick) => Number.isInteger(tick.value)).map((tick) => ({ at: x.at(tick.value), text: String(tick.value) })), left, right, y: bottom, label: named ? "trials of one kind of adapter" : "trials" });
  const ends = [];
  lines.forEach(([kind, of], i) => {
    const color = lineColor(named ? i / Math.max(lines.length - 1, 1) : 0.5);
    const places = of.map((value, at) => [x.at(at + 1), y.at(value)]);
    svg.append(draw("path", { d: `M${places.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L")}`, class: "line main", stroke: color }));
    places.forEach(([px, py], at) => {
      const dot = draw("circle", { cx: px, cy: py, r: 3.5, fill: color });
      dot.append(draw("title", {}, `${kind} ${counted(at + 1, "trial")}: ${of[at].toFixed(sweep.decimals)}`.trim()));
      svg.append(dot);
    });
    if (named) ends.push({ x: places.at(-1)[0] + 8, y: places.at(-1)[1] + 4, kind });
  });
  for (const end of apart(ends, 16, 34, bottom)) svg.append(text(end.x, end.y, end.kind, { className: "label main" }));
  box.append(svg, make("p", "note", sweep.note));
}
