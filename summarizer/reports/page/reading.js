/* Values read off a chart by pointer or keyboard: a ring around the mark, its words beside it and in a live region. */

/*
 * marksOf: makes the marks when they are first read, since a chart of 200 runs has 50,000 of them: {x, y, run, series,
 * words: [first line, others…]}. Left and right walk along a series, up and down change to the mark of the next series
 * that is nearest.
 */
function readable(box, svg, marksOf) {
  const frame = make("div", "frame", svg);
  const ring = draw("circle", { r: 6, class: "ring", visibility: "hidden" });
  const tip = make("div", "tip");
  const said = make("p", "said", "");
  said.setAttribute("role", "status");
  tip.hidden = true;
  svg.append(ring);
  frame.append(tip);
  box.append(frame, said);
  let current = null;
  let made = null;

  function all() {
    if (made) return made;
    const marks = marksOf();
    const of = new Map();
    for (const mark of marks) of.has(mark.series) ? of.get(mark.series).push(mark) : of.set(mark.series, [mark]);
    made = { marks, of, series: [...of.keys()] };
    return made;
  }

  function show(mark, aloud) {
    current = mark;
    ring.setAttribute("cx", mark.x);
    ring.setAttribute("cy", mark.y);
    ring.setAttribute("visibility", "visible");
    tip.replaceChildren(...mark.words.map((line, i) => make(i ? "span" : "strong", "", line)));
    tip.hidden = false;
    const width = svg.clientWidth;
    const left = mark.x + 14 + tip.offsetWidth > width ? mark.x - 14 - tip.offsetWidth : mark.x + 14;
    tip.style.left = `${Math.max(0, Math.min(left, width - tip.offsetWidth))}px`;
    tip.style.top = `${Math.max(0, mark.y - tip.offsetHeight / 2)}px`;
    if (aloud) said.textContent = mark.words.join(", ");
  }

  function hide() {
    tip.hidden = true;
    ring.setAttribute("visibility", "hidden");
  }

  function nearest(x, y, among = all().marks) {
    let found = null;
    let least = Infinity;
    for (const mark of among) {
      const distance = (mark.x - x) ** 2 + (mark.y - y) ** 2;
      if (distance < least) [found, least] = [mark, distance];
    }
    return { mark: found, distance: Math.sqrt(least) };
  }

  const pointed = (event) => {
    const bounds = svg.getBoundingClientRect();
    return nearest(event.clientX - bounds.left, event.clientY - bounds.top);
  };

  svg.addEventListener("pointermove", (event) => {
    const { mark, distance } = pointed(event);
    if (distance < 48) show(mark, false);
    else hide();
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("click", (event) => {
    const { mark, distance } = pointed(event);
    if (distance < 48 && mark.run) highlight(mark.run);
  });
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const along = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    const across = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") return hide();
    if (event.key === "Enter" && current?.run) {
      event.preventDefault();
      return highlight(current.run);
    }
    if (along === undefined && across === undefined) return;
    event.preventDefault();
    const { marks, of, series } = all();
    const start = current ?? marks.find((mark) => mark.run === highlighted()) ?? marks[0];
    if (current === null) return show(start, true);
    if (along !== undefined) {
      const line = of.get(start.series);
      show(line[Math.min(Math.max(line.indexOf(start) + along, 0), line.length - 1)], true);
    } else {
      const place = Math.min(Math.max(series.indexOf(start.series) + across, 0), series.length - 1);
      show(nearest(start.x, start.y, of.get(series[place])).mark, true);
    }
  });
}
