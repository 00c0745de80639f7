/* Boxes for the values of each setting: a value that is off takes its runs out of the table and of all charts. */

const MOST_BOXES = 12;  // values of a setting
const MOST_OPEN_FILTERS = 4;  // settings

function filterGroup(name, key, values) {
  const group = make("fieldset", "filter", make("legend", "", name));
  values.forEach((value, place) => {
    group.append(checkBox(value, true, (on) => {
      const off = chosen.without.get(key) ?? new Set();
      if (on) off.delete(place);
      else off.add(place);
      chosen.without.set(key, off);
      changed();
    }, `filter-${key}`));
  });
  return group;
}

function layFilters() {
  const box = by("filters");
  if (DATA.rowSets.length > 1) {
    const sets = select("row-set", "Charts show scores on", DATA.rowSets.map((set, i) => [String(i), rowSetName(set)]), String(chosen.rowSet), (value) => {
      chosen.rowSet = Number(value);
      if (highlighted()?.rowSet !== chosen.rowSet) chosen.highlighted = DATA.rowSets[chosen.rowSet].best ?? chosen.highlighted;
      changed();
    });
    box.append(sets, make("p", "note", "Scores on different rows cannot be compared, so no chart shows two row sets together."));
    whenChanged(() => { sets.querySelector("select").value = String(chosen.rowSet); });
  }
  const groups = DATA.swept.filter((swept) => swept.values.length > 1 && swept.values.length <= MOST_BOXES)
    .map((swept) => filterGroup(swept.key, swept.key, swept.values.map((value) => value.text)));
  box.append(...groups.slice(0, MOST_OPEN_FILTERS));
  if (STATUSES.length > 1) box.append(filterGroup("status", "status", STATUSES));
  if (groups.length > MOST_OPEN_FILTERS) box.append(make("details", "more", make("summary", "", `${counted(groups.length - MOST_OPEN_FILTERS, "more setting")} to choose runs by`), ...groups.slice(MOST_OPEN_FILTERS)));
  const tell = () => {
    const on = DATA.runs.filter(isShown).length;
    by("shown").textContent = DATA.runs.length === 1 ? "" : on === DATA.runs.length ? `All ${counted(on, "run")} shown.` : `${on} of ${counted(DATA.runs.length, "run")} shown.`;
  };
  whenChanged(tell);
  tell();
}
