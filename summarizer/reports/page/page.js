/* Puts the page together. */

const THEMES = ["", "light", "dark"];

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  by("theme").textContent = { "": "Colors: as the system", light: "Colors: light", dark: "Colors: dark" }[theme];
  paintAll();
}

by("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length]));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintAll);

addEventListener("beforeprint", () => { printing = true; paintAll(); });
addEventListener("afterprint", () => { printing = false; paintAll(); });

const [first, ...others] = DATA.answers;
for (const word of first.headline.split(" ")) by("headline").append(make("span", "word", word), " ");  // never broken at a hyphen
by("certainty").textContent = first.certainty.replaceAll("p = ", "p\u00a0=\u00a0");
for (const answer of others) by("more-answers").append(make("p", "", make("strong", "", answer.headline), " ", answer.certainty));
for (const note of DATA.notes) by("notes").append(make("li", "", note));

layFilters();
layTables();
layCurves();
layHeatmap();
layParallel();
layScatter();
layBudget();
layPredictions();
layFailures();
layCommands();
whenChanged(paintAll);
setTheme("");
for (const one of charts) resized.observe(one.box);

/* While runs train, the page loads itself anew, and comes back as it was left: from a file too, without a server. */

const KEPT = "summarizer-comparison";

function left() {
  const choice = { theme: document.documentElement.dataset.theme ?? "", hidden: [...chosen.unchecked].map((i) => DATA.runs[i].source), main: highlighted()?.source, curves, unfolded: Boolean(document.querySelector("table.unfolded")) };
  try { sessionStorage.setItem(KEPT, JSON.stringify(choice)); } catch { /* a browser may forbid it to files */ }
}

function comeBack() {
  let choice = null;
  try { choice = JSON.parse(sessionStorage.getItem(KEPT)); } catch { return; }
  if (!choice) return;
  const by_source = new Map(DATA.runs.map((run) => [run.source, run]));
  for (const source of choice.hidden) if (by_source.has(source)) chosen.unchecked.add(by_source.get(source).index);
  if (by_source.has(choice.main)) highlight(by_source.get(choice.main));
  if (HISTORIES.includes(choice.curves.show) || choice.curves.show === "losses") {
    by("curves-show").value = choice.curves.show;
    by("curves-show").dispatchEvent(new Event("change"));
  }
  if (choice.unfolded) for (const fold of document.querySelectorAll("button.unfold")) fold.click();
  setTheme(choice.theme);
  changed();
}

if (DATA.reloadS) {
  const words = make("p", "note", `Runs still train: this page loads itself anew every ${Math.round(DATA.reloadS)} s. `);
  let waits = true;
  const hold = button("Hold", () => {
    waits = !waits;
    hold.textContent = waits ? "Hold" : "Go on";
  });
  words.id = "reloading";
  words.append(hold);
  by("notes").before(words);
  comeBack();
  setInterval(() => {
    const busy = document.activeElement?.tagName === "SELECT" || String(getSelection());
    if (!waits || busy) return;
    left();
    location.reload();
  }, 1000 * DATA.reloadS);
}
