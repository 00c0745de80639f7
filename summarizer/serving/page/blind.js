"use strict";

const by = (id) => document.getElementById(id);
const KEYS = { 1: "left", 2: "right", "=": "tie", 0: "tie", s: "skip", S: "skip" };
const WORDS = { left: "the left one", right: "the right one", tie: "equally good", skip: "skipped" };

let shown = null;  // the id of the pair that is asked about
let busy = false;
let ending = false;  // whether the button that ends the test was pressed once

function make(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

/* One thing at a time: a key that is pressed twice is one vote. */
async function alone(work) {
  if (busy) return;
  busy = true;
  try {
    await work();
    by("error").hidden = true;
  } catch (error) {
    by("error").textContent = error instanceof TypeError ? "The server does not answer. Is it still running?" : error.message;
    by("error").hidden = false;
  } finally {
    busy = false;
  }
}

function show(state) {
  by("pair").hidden = state.ended;
  by("result").hidden = !state.ended;
  by("progress").textContent = state.ended ? "" : `${state.done + 1} of ${state.of}`;
  if (state.ended) return showResult(state.result);
  shown = state.id;
  for (const [id, text] of [["article", state.article], ["left", state.summaries[0]], ["right", state.summaries[1]]]) by(id).textContent = text;
  by("article").scrollTop = 0;
}

function showResult(result) {
  const wasShown = shown !== null;
  shown = null;
  const [first, ...others] = result.sentences;
  by("headline").textContent = first;
  by("sentences").replaceChildren(...others.map((sentence) => make("p", sentence)));
  by("list").replaceChildren(...result.votes.map((vote) => {
    const row = document.createElement("tr");
    const said = vote.preferred ?? WORDS[vote.vote];
    row.append(make("td", vote.id), make("td", vote.left), make("td", vote.right), make("td", said), make("td", vote.words.join(" : ")));
    return row;
  }));
  by("kept").textContent = `All votes are in ${result.file}.`;
  by("said").textContent = "";
  if (wasShown) by("result").focus();
}

const vote = (choice) => alone(async () => {
  if (shown === null) return;
  const number = by("progress").textContent.split(" ")[0];
  const { words, next } = await ask("/api/votes", { id: shown, vote: choice });
  if (words) by("said").textContent = `Pair ${number}: ${WORDS[choice]}. The left has ${words[0]} ${words[0] === 1 ? "word" : "words"}, the right ${words[1]}.`;
  show(next);
});

function end() {
  if (!ending) {
    ending = true;
    by("end").textContent = "Press again to end: no vote is taken after it";
    return;
  }
  alone(async () => show(await ask("/api/end", {})));
}

for (const button of document.querySelectorAll("[data-vote]")) button.addEventListener("click", () => vote(button.dataset.vote));
by("end").addEventListener("click", end);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !(event.key in KEYS)) return;
  event.preventDefault();
  vote(KEYS[event.key]);
});
alone(async () => show(await ask("/api/pair")));
