"use strict";

const by = (id) => document.getElementById(id);
const SETTINGS = {
  max_new_tokens: "Longest summary, tokens",
  min_new_tokens: "Shortest summary, tokens",
  num_beams: "Beams",
  no_repeat_ngram_size: "No n-gram twice, n",
};
const REMARKS = {
  num_beams: "; above 1 a summary comes in one piece",
  no_repeat_ngram_size: "; 0 allows all",
};
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fixed = (digits) => new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

let running = null;  // the AbortController of the request that is being answered
let cards = new Map();  // run id -> { card, summary }
let asked = "";  // the article as it was sent: passages are places in it

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function open() {
  let about;
  try {
    about = await (await fetch("/api/runs")).json();
  } catch {
    return showError("The server does not answer. Is it still running?");
  }
  by("about").textContent =
    `${about.base} in ${about.quantization} on ${about.device}; reads up to ${number.format(about.prompt_tokens)} tokens, the summary among them`;
  for (const run of about.runs) by("runs").append(runChoice(run));
  for (const [key, setting] of Object.entries(about.settings)) by("settings").append(settingField(key, setting));
}

function runChoice(run) {
  const label = make("label", "run");
  const box = make("input");
  Object.assign(box, { type: "checkbox", name: "run", value: run.id, checked: true });
  box.dataset.name = run.name;
  box.dataset.detail = run.detail;
  label.append(box, make("span", "", run.name));
  if (run.detail) label.append(make("span", "detail", run.detail));
  return label;
}

function settingField(key, setting) {
  const row = make("div", "setting");
  const label = make("label", "", SETTINGS[key] ?? key);
  label.htmlFor = key;
  label.append(make("span", "bounds", `${setting.low} to ${setting.high}${REMARKS[key] ?? ""}`));
  const input = make("input");
  Object.assign(input, { type: "number", id: key, min: setting.low, max: setting.high, step: 1, value: setting.default });
  row.append(label, input);
  return row;
}

function request() {
  const settings = {};
  for (const input of by("settings").querySelectorAll("input"))
    if (input.value !== "") settings[input.id] = Number(input.value);
  return {
    article: by("article").value,
    reference: by("reference").value || null,
    runs: [...document.querySelectorAll("input[name=run]:checked")].map((box) => box.value),
    settings,
  };
}

async function summarize() {
  const body = request();
  clearErrors();
  by("cut").textContent = "";
  asked = body.article;
  running = new AbortController();
  showRunning(true);
  say("Sent.");
  try {
    const response = await fetch("/api/summaries", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: running.signal,
    });
    if (!response.ok) return showRefusal(response.status, await response.json(), response.headers.get("Retry-After"));
    layCards(body.runs);
    let ended = false;
    for await (const event of linesOf(response.body)) {
      show(event);
      ended = event.event === "done" || event.event === "error";
    }
    if (!ended) showError("The connection ended before the summaries were done.");
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else showError("The server does not answer. Is it still running?");
  } finally {
    for (const { card } of cards.values()) card.setAttribute("aria-busy", "false");
    for (const { summary } of cards.values())
      if (summary.classList.contains("quiet")) summary.textContent = "Not written.";
    running = null;
    showRunning(false);
  }
}

async function* linesOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

function layCards(runs) {
  cards = new Map();
  by("cards").replaceChildren();
  by("legend").hidden = by("legend-missing").hidden = true;
  by("results").hidden = false;
  for (const id of runs) {
    const box = document.querySelector(`input[name=run][value="${id}"]`);
    const card = make("article", "card");
    card.dataset.run = id;
    const summary = make("p", "summary prose quiet", "Waits for its turn.");
    card.append(make("h2", "", box.dataset.name), make("p", "detail", box.dataset.detail), summary);
    cards.set(id, { card, summary, name: box.dataset.name });
    by("cards").append(card);
  }
  by("results").scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function show(event) {
  const at = cards.get(event.run);
  switch (event.event) {
    case "queued":
      say(event.ahead ? `Waiting: ${event.ahead} ${event.ahead === 1 ? "request" : "requests"} ahead.` : "Reading the article.");
      break;
    case "article":
      by("cut").textContent = event.cut_tokens
        ? `The last ${number.format(event.cut_tokens)} of the article’s ${number.format(event.article_tokens)} tokens were not read.`
        : `All ${number.format(event.article_tokens)} tokens of the article were read.`;
      break;
    case "started":
      at.card.setAttribute("aria-busy", "true");
      at.summary.classList.remove("quiet");
      at.summary.textContent = "";
      say(`Writing: ${at.name}.`);
      break;
    case "text":
      at.summary.append(event.text);
      break;
    case "summary":
      at.card.setAttribute("aria-busy", "false");
      finish(at, event);
      break;
    case "done":
      say("Done.");
      break;
    case "error":
      showError(event.message);
      break;
  }
}

function finish({ card, summary }, event) {
  const missing = event.claims.filter((claim) => !claim.supported);
  summary.replaceChildren(...marked(event.summary, event.copied.passages, missing));
  if (!event.summary) {
    summary.classList.add("empty");
    summary.textContent = "It wrote nothing: its first token was the end.";
  }
  if (event.cut)
    card.append(make("p", "cut", `Cut at the limit of ${event.summary_tokens} tokens: it would have gone on.`));
  if (event.rouge) card.append(rougeScores(event.rouge, event.rouge_tokenizer));
  const figures = make("div", "figures");
  const speed = `${event.summary_tokens} tokens in ${fixed(2).format(event.total_s)} s (${fixed(1).format(event.tokens_per_s)} tokens/s)`;
  figures.append(make("p", "", speed));
  if (event.first_text_s !== null)
    figures.append(make("p", "", `first words after ${fixed(2).format(event.first_text_s)} s`));
  if (event.copied.coverage !== null) {
    const share = fixed(0).format(100 * event.copied.coverage);
    figures.append(make("p", "", `copied: coverage ${share} %, density ${fixed(1).format(event.copied.density)} words`));
    by("legend").hidden = false;
  }
  const known = ["names", "numbers", "quotes"].map((kind) => [kind, event.claims.filter((claim) => claim.kind === kind)]);
  for (const [kind, all] of known.filter(([, all]) => all.length))
    figures.append(make("p", "", `${kind} in the article: ${all.filter((claim) => claim.supported).length} of ${all.length}`));
  if (event.claims.length) by("legend-missing").hidden = false;
  card.append(figures);
}

function rougeScores(rouge, tokenizer) {
  const list = make("dl", "rouge");
  for (const [variant, value] of Object.entries(rouge)) {
    const cell = make("div");
    cell.append(make("dt", "", variant), make("dd", "", fixed(1).format(value)));
    list.append(cell);
  }
  const scores = make("div", "scores");
  scores.append(make("p", "", `F1 against the reference, % (tokenizer ${tokenizer})`), list);
  return scores;
}

/* Places are counted in code points, as the server counts; a string's own index counts UTF-16 units. */
function marked(text, passages, missing = []) {
  const characters = Array.from(text);
  const pieces = [];
  let from = 0;
  for (const passage of passages) {
    pieces.push(...unsupported(characters, from, passage.start, missing));
    const mark = make("mark", "copied");
    mark.append(...unsupported(characters, passage.start, passage.end, missing));
    mark.tabIndex = 0;
    mark.setAttribute("role", "button");
    mark.title = "Show it in the article";
    mark.addEventListener("click", () => showInArticle(passage));
    mark.addEventListener("keydown", (key) => {
      if (key.key === "Enter" || key.key === " ") {
        key.preventDefault();
        showInArticle(passage);
      }
    });
    pieces.push(mark);
    from = passage.end;
  }
  pieces.push(...unsupported(characters, from, characters.length, missing));
  return pieces;
}

/* The characters [from, to), what of them the article does not have marked. */
function unsupported(characters, from, to, missing) {
  const pieces = [];
  for (const claim of missing) {
    const [start, end] = [Math.max(claim.start, from), Math.min(claim.end, to)];
    if (start >= end) continue;
    const mark = make("mark", "missing", characters.slice(start, end).join(""));
    mark.title = `This ${claim.kind.slice(0, -1)} is not in the article`;
    pieces.push(characters.slice(from, start).join(""), mark);
    from = end;
  }
  return [...pieces, characters.slice(from, to).join("")];
}

function showInArticle(passage) {
  const box = by("article");
  if (box.value !== asked) return say("The article was changed since; summarize again to see the passage.");
  const units = (place) => Array.from(asked).slice(0, place).join("").length;
  const [start, end] = [units(passage.article_start), units(passage.article_end)];
  box.focus({ preventScroll: true });
  box.setSelectionRange(start, end);
  box.scrollTop = (start / asked.length) * box.scrollHeight - box.clientHeight / 2;
  box.scrollIntoView({ block: "center", behavior: "smooth" });
}

function showRunning(is) {
  by("go").disabled = is;
  by("stop").hidden = !is;
}

function say(text) {
  by("status").textContent = text;
}

function showError(text) {
  say("");
  by("error").textContent = text;
  by("error").hidden = false;
}

function clearErrors() {
  by("error").hidden = true;
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

function showRefusal(status, answer, retryAfter) {
  if (!answer.issues)
    return showError(`${sentence(answer.error)}${status === 503 && retryAfter ? ` About ${retryAfter} s from now there may be room.` : ""}`);
  showError(answer.issues.map(({ key, message }) => sentence(`${SETTINGS[key] ?? key}: ${message}`)).join("\n"));
  const fields = answer.issues.map(({ key }) => (key === "runs" ? document.querySelector("input[name=run]") : by(key)));
  for (const field of fields) field?.setAttribute("aria-invalid", "true");
  fields.find(Boolean)?.focus();
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

by("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) summarize();
});
by("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) summarize();
});
open();
