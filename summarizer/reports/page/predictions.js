/* What several runs, the base model and the reference say about the same article. */

const AT_ONCE = [1, 2, 3, 4, 6, 12];
const reading = { article: 0, atOnce: 3, open: false };

const articles = () => DATA.rowSets[chosen.rowSet]?.articles ?? [];

function layPredictions() {
  if (!DATA.rowSets.some((set) => set.articles.length) || !DATA.runs.some((run) => Object.keys(run.texts).length))
    return by("predictions-cards").append(nothing("No run’s summaries are at hand. A run keeps them where it was evaluated with generation."));
  const turn = (by) => () => { reading.article = (reading.article + by + articles().length) % articles().length; showArticle(); };
  by("predictions-controls").append(
    button("← Previous", turn(-1)),
    select("article", "Article", [], "", (value) => { reading.article = Number(value.split(" ")[1]); showArticle(); }),
    button("Next →", turn(1)),
    select("at-once", "Runs beside each other", AT_ONCE.map((count) => [String(count), String(count)]), String(reading.atOnce), (value) => { reading.atOnce = Number(value); showArticle(); }),
  );
  whenChanged(showArticle);
  showArticle();
}

const beginning = (words) => (words.length > 28 ? `${Array.from(words).slice(0, 27).join("").trimEnd()}…` : words);

/* The shown runs that have this article, the highlighted one first, then by rank. */
function readers(id) {
  const runs = shownRuns().filter((run) => run.rowSet === chosen.rowSet && run.texts[id]);
  return runs.sort((a, b) => (b === highlighted()) - (a === highlighted()) || a.index - b.index);
}

function showArticle() {
  const all = articles();
  const [place, cards] = [by("predictions-article"), by("predictions-cards")];
  place.replaceChildren();
  cards.replaceChildren();
  by("predictions-more").textContent = "";
  const list = by("article");
  refill(list, all.map((row, i) => [`${chosen.rowSet} ${i}`, `${i + 1} of ${all.length}: ${beginning(row.reference) || row.id}`]), `${chosen.rowSet} ${reading.article}`);
  if (!all.length) return cards.append(nothing("No summaries of these rows are at hand."));
  reading.article = Math.min(reading.article, all.length - 1);
  list.value = `${chosen.rowSet} ${reading.article}`;
  const row = all[reading.article];
  if (row.article) {
    const opening = make("details", "article", make("summary", "", "The article’s beginning"), make("p", "prose", row.article));
    opening.open = reading.open;
    opening.addEventListener("toggle", () => { reading.open = opening.open; });
    place.append(opening);
  }
  cards.append(card("Reference", "written by a person", { text: row.reference, rouge: null, missing: [] }, "reference"));
  const runs = readers(row.id);
  for (const run of runs.slice(0, reading.atOnce))
    cards.append(card(run.name, run === highlighted() ? "highlighted" : "", run.texts[row.id], run === highlighted() ? "chosen" : ""));
  const bases = [...new Set(runs.slice(0, reading.atOnce).map((run) => run.base))].filter((base) => base !== null && DATA.baseTexts[base][row.id]);
  for (const base of bases) {
    const of = runs.filter((run) => run.base === base);
    cards.append(card("Base model", bases.length > 1 ? `of ${of[0].name}` : "before any training", DATA.baseTexts[base][row.id], "base"));
  }
  const marks = cards.querySelector(".missing") ? "Underlined names, numbers and quotes are not in the article, as far as rules can tell. " : "";
  const more = runs.length - reading.atOnce;
  by("predictions-more").textContent = marks + (!runs.length ? "None of the runs that are shown wrote a summary of it."
    : more > 0 ? `${counted(more, "more run")} of those shown wrote a summary of it; highlight a run, or hide others, to see its own.` : "");
}

/* A summary with what its article does not have marked. Places are counted in code points. */
function summaryOf(written, missing) {
  const characters = Array.from(written);
  const pieces = [];
  let from = 0;
  for (const [kind, start, end] of missing) {
    if (start < from || end > characters.length) continue;
    const mark = make("mark", "missing", characters.slice(start, end).join(""));
    mark.title = `This ${kind.slice(0, -1)} is not in the article`;
    pieces.push(characters.slice(from, start).join(""), mark);
    from = end;
  }
  return make("p", "prose summary", ...pieces, characters.slice(from).join(""));
}

function card(name, detail, { text: written, rouge, missing }, className) {
  const made = make("article", `card ${className}`, make("h3", "", name));
  if (detail) made.append(make("p", "detail", detail));
  made.append(written ? summaryOf(written, missing) : make("p", "summary quiet", "It wrote nothing."));
  if (rouge) {
    const list = make("dl", "rouge");
    for (const [variant, value] of Object.entries(rouge)) list.append(make("div", "", make("dt", "", variantName(variant)), make("dd", "", value === null ? "–" : value.toFixed(1))));
    made.append(list);
  }
  return made;
}
