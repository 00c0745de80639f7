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
layPredictions();
layFailures();
layCommands();
whenChanged(paintAll);
setTheme("");
for (const one of charts) resized.observe(one.box);
