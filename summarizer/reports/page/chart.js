/* What all charts share: they fill the width they are given, and are drawn again when that or a choice changes. */

const charts = [];

/* `paint(box, width)` fills the box; it runs again on each change. */
function chart(box, paint) {
  const again = () => {
    const focused = box.contains(document.activeElement);
    box.replaceChildren();
    paint(box, Math.max(box.clientWidth, 240));
    if (focused) box.querySelector("svg[tabindex]")?.focus({ preventScroll: true });
  };
  charts.push({ box, again, width: 0 });
}

const resized = new ResizeObserver(() => {
  for (const one of charts)
    if (one.box.clientWidth !== one.width) {
      one.width = one.box.clientWidth;
      one.again();
    }
});

function paintAll() {
  for (const one of charts) {
    one.width = one.box.clientWidth;
    one.again();
  }
}

/* The picture itself: it can be focused, and its label says what it shows. */
function picture(width, height, label) {
  return draw("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, class: "chart", tabindex: "0", role: "img",
    "aria-roledescription": "chart", "aria-label": `${label}. Arrow keys read the values, Enter highlights the run.`,
  });
}

function text(x, y, words, { anchor = "start", className = "tick", turn = 0, title = null } = {}) {
  const made = draw("text", { x, y, "text-anchor": anchor, class: className });
  if (turn) made.setAttribute("transform", `rotate(${turn} ${x} ${y})`);
  made.textContent = words;
  if (title !== null && title !== words) made.append(draw("title", {}, title));
  return made;
}

/* Ticks, their texts and the name of an x axis; texts that would touch are left out or turned. Gives its height. */
function xAxis(svg, { ticks, left, right, y, label }) {
  const room = ticks.length > 1 ? Math.abs(ticks[1].at - ticks[0].at) - 8 : right - left;
  const longest = Math.max(0, ...ticks.map((tick) => widthOf(tick.text)));
  const turned = longest > room;
  const texts = ticks.map((tick) => [tick, fitted(tick.text, turned ? 90 : Math.max(room, 40))]);
  const depth = turned ? Math.min(longest, 90) * 0.6 + 18 : 20;
  for (const [tick, shown] of texts) {
    svg.append(draw("line", { x1: tick.at, x2: tick.at, y1: y, y2: y + 4, class: "axis" }));
    svg.append(turned
      ? text(tick.at + 3, y + 15, shown, { anchor: "end", turn: -35, title: tick.text })
      : text(tick.at, y + 17, shown, { anchor: "middle", title: tick.text }));
  }
  svg.append(draw("line", { x1: left, x2: right, y1: y, y2: y, class: "axis" }));
  const wide = widthOf(label) > right - left;
  const most = wide ? svg.getAttribute("width") - left : right - left;
  svg.append(text(wide ? left : (left + right) / 2, y + depth + 18, fitted(label, most), { anchor: wide ? "start" : "middle", className: "axis-name", title: label }));
  return depth + 26;
}

const xAxisDepth = (ticks) => {
  const room = ticks.length > 1 ? Math.abs(ticks[1].at - ticks[0].at) - 8 : Infinity;
  const longest = Math.max(0, ...ticks.map((tick) => widthOf(tick.text)));
  return (longest > room ? Math.min(longest, 90) * 0.6 + 18 : 20) + 28;
};

/* Ticks with lines across the picture; the name stands above the axis, where it is read without turning the head. */
function yAxis(svg, { ticks, left, right, label, lines = true }) {
  for (const tick of ticks) {
    if (lines) svg.append(draw("line", { x1: left, x2: right, y1: tick.at, y2: tick.at, class: "grid" }));
    svg.append(text(left - 8, tick.at + 4, fitted(tick.text, left - 10), { anchor: "end", title: tick.text }));
  }
  svg.append(text(0, 14, label, { className: "axis-name" }));
}

const widestTick = (texts, most = 110) => Math.min(most, Math.max(24, ...texts.map((one) => widthOf(one)))) + 12;

/* Moves texts that stand beside each other along y apart, none of them out of low … high. */
function apart(labels, gap, low, high) {
  labels.sort((a, b) => a.y - b.y);
  for (let i = 0; i < labels.length; i += 1)
    labels[i].y = Math.max(labels[i].y, i ? labels[i - 1].y + gap : low);
  for (let i = labels.length - 1; i >= 0; i -= 1)
    labels[i].y = Math.min(labels[i].y, i < labels.length - 1 ? labels[i + 1].y - gap : high);
  return labels;
}
