"""Do kinds matter once each has its own rate? The best setting of each kind, of one sweep or several, as Markdown.

    python experiments/which_adapter/by_kind.py SWEEP_FOLDER [SWEEP_FOLDER ...]

The folders are sweeps of the same model on the same rows. A setting is what runs have in common that differ in the
seed alone; its value is their mean. What did not train to its end has no part, except in the count.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from summarizer.runs.settings import sweep_axes
from summarizer.sweeps.candidates import Setting, settings_of, spread_within
from summarizer.sweeps.record import collect

KIND, UNSWEPT = "adapter", "lora"


@dataclass
class Kind:
    settings: list[Setting]
    """Those that finished, of all folders."""
    runs: int = 0
    """Planned ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path, help="folders of sweeps")
    kinds = by_kind(parser.parse_args().sweeps)
    done = {name: kind for name, kind in kinds.items() if kind.settings}
    best = min(kind.settings[0].value for kind in done.values())
    print("| kind | its best | loss | behind the best | parameters | settings that finished | runs |")
    print("|---|---|---|---|---|---|---|")
    for name, kind in sorted(kinds.items(), key=lambda item: _value(item[1])):
        if not kind.settings:
            print(f"| {name} | | | | | 0 | {kind.runs} |")
            continue
        first = kind.settings[0]
        size = first.runs[0].trainable_parameters or 0
        print(
            f"| {name} | {first.name} | {first.value:.3f} | {first.value - best:.3f} | {size:,} "
            f"| {len(kind.settings)} | {kind.runs} |"
        )
    seeds = [
        [run.best.value for run in one.runs if run.best] for kind in done.values() for one in kind.settings
    ]
    firsts = sorted(kind.settings[0].value for kind in done.values())
    print(
        f"\nBetween the kinds' best: {firsts[-1] - firsts[0]:.3f} from the best to the worst of {len(firsts)}."
    )
    if (spread := spread_within(seeds)) is not None:
        print(f"Between seeds of one setting: a standard deviation of {spread:.3f}.")
    for name, kind in done.items():
        if len(kind.settings) > 1:
            values = [setting.value for setting in kind.settings]
            print(f"Within {name}, between the settings that finished: {max(values) - min(values):.3f}.")


def by_kind(sweeps: list[Path]) -> dict[str, Kind]:
    """The settings of each kind, the best first."""
    kinds: dict[str, Kind] = {}
    for folder in sweeps:
        record = collect(folder)
        swept = sweep_axes(record.runs)
        names = {
            run.folder: swept.of[run.folder][KIND].text if KIND in swept.keys else UNSWEPT
            for run in record.runs
        }
        for run in record.runs:
            kinds.setdefault(names[run.folder], Kind([])).runs += 1
        for setting in settings_of(record, swept, {}):
            kinds[names[setting.runs[0].folder]].settings.append(setting)
    for kind in kinds.values():
        kind.settings.sort(key=lambda setting: setting.value)
    return kinds


def _value(kind: Kind) -> float:
    return kind.settings[0].value if kind.settings else float("inf")


if __name__ == "__main__":
    main()
