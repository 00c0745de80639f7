/* Colors that people with and without color vision deficiency tell apart, on light and on dark paper. */

/* Cividis at 17 places (Nuñez, Anderton and Renslow 2018), as matplotlib has it. */
const CIVIDIS = [
  [0, 34, 78], [0, 46, 106], [26, 56, 111], [50, 67, 109], [67, 78, 108], [83, 90, 109], [97, 101, 111], [111, 112, 115],
  [125, 124, 120], [140, 136, 120], [155, 148, 118], [171, 160, 114], [188, 174, 108], [205, 187, 99], [222, 201, 88],
  [240, 216, 70], [254, 232, 56],
];

/* Okabe and Ito 2008, without black; their yellow is too pale for a line on white and stands last. */
const OKABE_ITO = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];

let printing = false;  // on white, whatever the screen is

const isDark = () => {
  if (printing) return false;
  const asked = document.documentElement.dataset.theme;
  return asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

function cividis(share) {
  const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const [low, rest] = [Math.min(Math.floor(at), CIVIDIS.length - 2), at - Math.min(Math.floor(at), CIVIDIS.length - 2)];
  return CIVIDIS[low].map((value, i) => Math.round(value + rest * (CIVIDIS[low + 1][i] - value)));
}

const css = (rgb) => `rgb(${rgb.join(",")})`;

/* Of a line or a dot: on white without the palest fifth, on black with the dark end lightened. */
function lineColor(share) {
  if (!isDark()) return css(cividis(0.8 * share));
  return css(cividis(share).map((value) => Math.round(value + (255 - value) * 0.45 * (1 - share))));
}

/* Whether white reads better than black on a color: WCAG 2.2 relative luminance below 0.179. */
function needsWhite(rgb) {
  const [r, g, b] = rgb.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b < 0.179;
}

/* A bar that says which color is which value. */
function colorBar(ranking, metric, colorOf = (share) => css(cividis(share))) {
  const bar = draw("svg", { width: 180, height: 14, "aria-hidden": "true", class: "bar" });
  for (let i = 0; i < 60; i += 1)
    bar.append(draw("rect", { x: 3 * i, y: 0, width: 3.5, height: 14, fill: colorOf(ranking.single ? 1 : i / 59) }));
  const low = ranking.single ? "" : `${metric.show(ranking.worst)}${ranking.clipped ? " or worse" : ""}`;
  const high = ranking.single ? `all ${metric.show(ranking.best)}` : `${metric.show(ranking.best)} (best)`;
  return make("p", "legend", make("span", "", metricLabel(metric)), make("span", "", low), bar, make("span", "", high));
}

/* Runs of one row set have a color and a dash each while there are few; more take the color of a setting's value. */
const FEW = OKABE_ITO.length;

function lookOf(run, key) {
  if (key === null) {
    const place = DATA.runs.filter(onRowSet).indexOf(run);
    return { color: OKABE_ITO[place % FEW], dash: DASHES[Math.floor(place / FEW) % DASHES.length] };
  }
  const count = DATA.swept[key].values.length;
  return { color: lineColor(count < 2 ? 0 : run.at[key] / (count - 1)), dash: "" };
}
