/* Numbers that a run ended with: names, units, digits, and which direction is better. */

const variantName = (variant) => variant.replace("rouge", "ROUGE-");

const MIB = 2 ** 20;

/* One unit of time for all runs, so that a column or an axis is read without counting. */
const LONGEST_S = Math.max(0, ...DATA.runs.map((run) => run.wallS ?? 0));
const TIME = LONGEST_S > 7200 ? [3600, "h"] : LONGEST_S > 120 ? [60, "min"] : [1, "s"];

const METRICS = [
  { id: "loss", name: "loss", unit: "nats per token", lower: true, of: (run) => run.loss, show: (v) => v.toFixed(3) },
  ...["rougeLsum", "rouge1", "rouge2", "rougeL"].map((variant) => ({
    id: variant, name: variantName(variant), unit: "F1, percent", lower: false,
    of: (run) => run.rouge[variant]?.[0] ?? null, show: (v) => v.toFixed(2),
  })),
  { id: "wallS", name: "time", unit: TIME[1], lower: true, of: (run) => run.wallS === null ? null : run.wallS / TIME[0], show: (v) => v.toFixed(v < 100 ? 1 : 0) },
  { id: "tokensPerS", name: "tokens per second", unit: "", lower: false, of: (run) => run.tokensPerS, show: (v) => Math.round(v).toLocaleString("en") },
  { id: "memoryBytes", name: "peak memory", unit: "MiB", lower: true, of: (run) => run.memoryBytes === null ? null : run.memoryBytes / MIB, show: (v) => Math.round(v).toLocaleString("en") },
  { id: "parameters", name: "trainable parameters", unit: "", lower: true, of: (run) => run.parameters, show: (v) => v.toLocaleString("en") },
].filter((metric) => DATA.runs.some((run) => metric.of(run) !== null));

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
