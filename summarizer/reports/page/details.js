/* Runs that did not complete, with their reasons; folders that could not be read; and each run's own command. */

const MOST_OPEN = 12;  // commands that stand open; of more runs, the highlighted one's does

function layFailures() {
  const box = by("failures-list");
  const ended = DATA.runs.filter((run) => run.status !== "completed");
  if (!ended.length && !DATA.problems.length) return box.append(nothing("Nothing: every run completed."));
  const list = make("dl", "failures");
  for (const run of ended) {
    const where = run.steps ? `, step ${run.steps.toLocaleString("en")}` : "";
    list.append(make("div", "", make("dt", "", run.name, " ", statusCell(run), make("span", "detail", where)), make("dd", "", run.why ?? "Its record gives no reason."), make("dd", "detail", run.source)));
  }
  for (const [path, reason] of DATA.problems)
    list.append(make("div", "", make("dt", "", path, " ", make("span", "status failed", "not read")), make("dd", "", reason)));
  box.append(list);
}

function layCommands() {
  const box = by("commands-list");
  if (!DATA.runs.length) return box.append(nothing("There is no run."));
  if (DATA.runs.length > MOST_OPEN) {
    const main = make("div", "");
    const follow = () => main.replaceChildren(commandOf(highlighted()));
    whenChanged(follow);
    follow();
    const all = make("details", "", make("summary", "", `The commands of all ${DATA.runs.length} runs`));
    all.addEventListener("toggle", () => all.append(...DATA.runs.map(commandOf)), { once: true });
    box.append(make("p", "note", "Of the highlighted run:"), main, all);
  } else box.append(...DATA.runs.map(commandOf));
  if (DATA.shared.length) {
    const list = make("dl", "shared");
    for (const [key, value] of DATA.shared) list.append(make("div", "", make("dt", "", key), make("dd", "", value)));
    box.append(make("details", "", make("summary", "", `The ${counted(DATA.shared.length, "setting")} that all runs share`), list));
  }
}

function commandOf(run) {
  const item = make("div", "command", make("h3", "", run.name), make("p", "detail", run.source));
  if (run.command) {
    const code = make("code", "", run.command);
    const copy = button("Copy", () => copyText(run.command, code, run.name));
    copy.setAttribute("aria-label", `Copy the command of ${run.name}`);
    item.append(make("div", "code", code, copy));
  } else item.append(nothing("Its record does not say how it was started."));
  return item;
}

async function copyText(words, code, name) {
  try {
    await navigator.clipboard.writeText(words);
    by("copied").textContent = `Copied the command of ${name}.`;
  } catch {
    getSelection().selectAllChildren(code);
    by("copied").textContent = "The browser does not let this page copy. The command is selected: press Ctrl+C or ⌘C.";
  }
}
