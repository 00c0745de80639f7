/* From values to pixels, with ticks at round numbers. */

const SPREAD = 20;  // from the smallest to the largest number, above which a scale is logarithmic
const CATEGORIES = 12;  // different values that get a place each; more numbers, as a sampler draws, lie to scale

function roundSteps(low, high, about) {
  const rough = (high - low) / Math.max(about, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough * 0.999);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) ticks.push({ value: i * step, text: numberText(i * step, digits) });
  return ticks;
}

function numberText(value, digits) {
  if (Math.abs(value) < 0.5 * 10 ** -digits) return "0";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function linear(low, high, from, to, about = 5) {
  if (low === high) [low, high] = [low - 0.5 * Math.abs(low || 1), high + 0.5 * Math.abs(high || 1)];
  return { at: (v) => from + ((v - low) / (high - low)) * (to - from), ticks: roundSteps(low, high, about), low, high };
}

function logarithmic(low, high, from, to, about = 5) {
  if (low === high) [low, high] = [low / 2, high * 2];
  const [a, b] = [Math.log(low), Math.log(high)];
  const ticks = [];
  for (const times of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7]]) {
    ticks.length = 0;
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1)
      for (const one of times) {
        const value = one * 10 ** power;
        if (value >= low * 0.999 && value <= high * 1.001) ticks.push({ value, text: logText(value) });
      }
    if (ticks.length >= Math.min(about, 3)) break;
  }
  const kept = ticks.length >= 2 ? ticks : roundSteps(low, high, about);
  return { at: (v) => from + ((Math.log(v) - a) / (b - a)) * (to - from), ticks: kept, low, high };
}

const logText = (value) => (value < 1e-3 || value >= 1e6 ? value.toExponential(0).replace("e+", "e") : String(Number(value.toPrecision(2))));

/* What an axis can show: a swept setting or a number that runs ended with. `of` gives {number, text, place}. */
const settingAxis = (key) => ({
  id: `s${key}`, name: DATA.swept[key].key, label: DATA.swept[key].label, values: DATA.swept[key].values,
  of: (run) => ({ ...DATA.swept[key].values[run.at[key]], place: run.at[key] }),
});

const metricAxis = (metric) => ({
  id: metric.id, name: metric.name, label: metricLabel(metric), values: null, metric,
  of: (run) => (metric.of(run) === null ? null : { number: metric.of(run), text: metric.show(metric.of(run)) }),
});

const axisOf = (id) => (/^s\d+$/.test(id) ? settingAxis(Number(id.slice(1))) : metricAxis(metricOf(id)));

/* A scale for the values that the runs have along an axis; a place each for few or for texts, else to scale. */
function axisScale(axis, runs, from, to, about = 5) {
  const seen = runs.map((run) => axis.of(run)).filter(Boolean);
  if (axis.values && (axis.values.length <= CATEGORIES || axis.values.some((value) => value.number === null))) {
    const places = [...new Set(seen.map((value) => value.place))].sort((a, b) => a - b);
    const step = (to - from) / Math.max(places.length, 1);
    const at = (value) => from + (places.indexOf(value.place) + 0.5) * step;
    return { at, step: Math.abs(step), ticks: places.map((place) => ({ at: at({ place }), text: axis.values[place].text })) };
  }
  const numbers = seen.map((value) => value.number);
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  if (axis.metric && axis.metric.show(low) === axis.metric.show(high)) {
    const middle = (from + to) / 2;
    return { at: () => middle, step: 0, ticks: [{ at: middle, text: axis.metric.show(low) }] };
  }
  const inner = (to - from) * 0.05;
  const logs = axis.values && low > 0 && high / low > SPREAD;
  const scale = (logs ? logarithmic : linear)(low, high, from + inner, to - inner, about);
  const ticks = scale.ticks.map((tick) => ({ at: scale.at(tick.value), text: axis.metric ? axis.metric.show(tick.value) : tick.text }));
  return { at: (value) => scale.at(value.number), step: 0, ticks };
}
