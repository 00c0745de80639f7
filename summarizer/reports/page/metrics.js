/* Numbers that runs ended with: names, units, digits, which direction is better, and what ranks and colors runs. */

const variantName = (variant) => variant.replace("rouge", "ROUGE-");

const METRICS = DATA.numbers.map((number) => ({
  ...number,
  of: (run) => run.numbers[number.id],
  show: (value) => value.toLocaleString("en", { minimumFractionDigits: number.decimals, maximumFractionDigits: number.decimals }),
}));

const metricOf = (id) => METRICS.find((metric) => metric.id === id);

/* What the runs are ranked by, where it is known; else the first number that is. */
const RANKED = metricOf(DATA.rankedBy.replace("val/", "")) ?? METRICS[0] ?? null;

const metricLabel = (metric) => (metric.unit ? `${metric.name} (${metric.unit})` : metric.name);

const metricOptions = () => METRICS.map((metric) => [metric.id, metricLabel(metric)]);

function betterFirst(metric) {
  return (a, b) => {
    const [x, y] = [metric.of(a), metric.of(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return metric.lower ? x - y : y - x;
  };
}

/* Of the runs on the chosen rows, which do not change their colors when others are hidden. */
function rankingOf(metric) {
  const { order, shares, worst, best, clipped } = metric.rankings[chosen.rowSet];
  const runs = order.map((index) => DATA.runs[index]);
  const place = new Map(order.map((index, i) => [index, i]));
  return {
    runs, worst, best, clipped, known: best !== null, single: worst === best,
    has: (run) => run.index in shares, share: (run) => shares[run.index], first: (a, b) => place.get(a.index) - place.get(b.index),
  };
}
