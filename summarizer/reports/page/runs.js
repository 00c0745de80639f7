/* Which runs are shown, which one is highlighted, and who has to be told when that changes. */

DATA.runs.forEach((run, index) => { run.index = index; });

const chosen = {
  rowSet: 0,
  unchecked: new Set(),  // indices of runs whose own box is off
  without: new Map(),  // swept key or "status" -> places of values whose box is off
  highlighted: DATA.rowSets.length && DATA.rowSets[0].best !== null ? DATA.rowSets[0].best : DATA.runs.length ? 0 : null,
};

const STATUSES = [...new Set(DATA.runs.map((run) => run.status))].sort();

const passesFilters = (run) =>
  !chosen.without.get("status")?.has(STATUSES.indexOf(run.status))
  && DATA.swept.every((swept, key) => !chosen.without.get(swept.key)?.has(run.at[key]));

const isShown = (run) => passesFilters(run) && !chosen.unchecked.has(run.index);

/* Scores can be compared on one row set only; what was never scored has none to mix. */
const onRowSet = (run) => run.rowSet === null || run.rowSet === chosen.rowSet;

const shownRuns = () => DATA.runs.filter((run) => isShown(run) && onRowSet(run));

const highlighted = () => (chosen.highlighted === null ? null : DATA.runs[chosen.highlighted]);

const listeners = [];
const whenChanged = (listener) => listeners.push(listener);
const changed = () => { for (const listener of listeners) listener(); };

function highlight(run) {
  chosen.highlighted = run.index;
  if (run.rowSet !== null) chosen.rowSet = run.rowSet;
  changed();
}

/* Names for charts, where room is short: without the groups of the keys, unless two runs would then be called the same. */
const SHORT = (() => {
  const short = DATA.runs.map((run) => run.name.replace(/(^|[\s,])(?:\w+\.)+(\w+=)/g, "$1$2"));
  return new Set(short).size === short.length ? short : DATA.runs.map((run) => run.name);
})();
const shortName = (run) => SHORT[run.index];

/* The settings whose values differ between some runs, as places in DATA.swept. */
const varying = (runs) => DATA.swept.map((_, key) => key).filter((key) => new Set(runs.map((run) => run.at[key])).size > 1);

/* Those that the charts can show: runs on other rows may differ in settings that these do not. */
const varyingHere = () => varying(DATA.runs.filter(onRowSet));

const valueText = (run, key) => DATA.swept[key].values[run.at[key]].text;

const rowSetName = (set) => `${set.split}, ${counted(set.rows, "row")}${
  DATA.rowSets.some((other) => other !== set && other.split === set.split && other.rows === set.rows) ? ` (${set.digest.slice(0, 8)})` : ""}`;
