"""Draw the rooms of the package in their layers, with what each imports, into docs/layers.svg.

    python experiments/house/layers.py [--png FILE]

The layers are those of `tests/test_layers.py`, which holds that no import points upwards. The picture carries the
data that it was drawn from.
"""

from __future__ import annotations

import argparse
import html
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PICTURE = REPOSITORY / "docs" / "layers.svg"
COMMANDS = ("run", "summarize", "evaluate", "export", "serve", "compare", "sweep", "__main__")
COMMAND, ROOM, GROUND = "#dbe7f6", "#f4f1e8", "#e6e6e6"
WIDTH, BAND, GAP = 8.4, 0.42, 0.12
"""In inches."""


def layers_test() -> ModuleType:
    """tests/test_layers.py, where the layers are stated and imports are read."""
    spec = importlib.util.spec_from_file_location("stated_layers", REPOSITORY / "tests" / "test_layers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def read_layers() -> dict[str, Any]:
    """The `layers` of rooms, lowest first; the rooms that each one `imports`; what each one `says` of itself."""
    stated = layers_test()
    package = REPOSITORY / "summarizer"
    imports: dict[str, set[str]] = {room: set() for layer in stated.LAYERS for room in layer}
    for name, path in stated.modules(package).items():
        room = stated.layer(name)
        imports[room] |= {stated.layer(imported) for imported in stated.imports(path, package)} - {room}
    order = [room for layer in reversed(stated.LAYERS) for room in layer]
    ground = set(stated.LAYERS[0])
    return {
        "layers": [list(layer) for layer in stated.LAYERS],
        "imports": {room: sorted(below - ground, key=order.index) for room, below in imports.items()},
        "says": {
            room: line
            for room in order
            if room not in {*COMMANDS, *ground} and (line := _says(package, room))
        },
    }


def _says(package: Path, room: str) -> str:
    """The first sentence of a room's docstring, up to its colon or semicolon."""
    path = package / room / "__init__.py" if (package / room).is_dir() else package / f"{room}.py"
    found = re.match(r'"""(.+?)[.:;](\s|""")', path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def draw(data: dict[str, Any], paths: list[Path]) -> None:
    """One band for each layer, the highest at the top."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "layers"
    import matplotlib.pyplot as plt

    places: list[tuple[str, float, float, float]] = []
    height = GAP
    for rooms in data["layers"]:
        if any(room in data["says"] for room in rooms):
            # One above the other, closer than two layers are.
            for room in rooms:
                places.append((room, GAP, height, WIDTH - 2 * GAP))
                height += BAND + GAP / 4
            height += GAP * 3 / 4
        else:
            box = (WIDTH - GAP) / len(rooms) - GAP
            places += [(room, GAP + column * (box + GAP), height, box) for column, room in enumerate(rooms)]
            height += BAND + GAP
    figure, axes = plt.subplots(figsize=(WIDTH, height))
    for room, *place in places:
        _draw_room(axes, room, data, *place)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, height)
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    for path in paths:
        kept = {"Date": None, "Description": json.dumps(data)} if path.suffix == ".svg" else None
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata=kept, dpi=110)
    plt.close(figure)


def _draw_room(axes: Any, room: str, data: dict[str, Any], x: float, y: float, box: float) -> None:
    """A box with its lower left corner at (x, y): the name, what the room says, what it imports."""
    from matplotlib.patches import FancyBboxPatch

    fill = COMMAND if room in COMMANDS else GROUND if room in data["layers"][0] else ROOM
    shape = "round,pad=0,rounding_size=0.05"
    axes.add_patch(FancyBboxPatch((x, y), box, BAND, boxstyle=shape, facecolor=fill, edgecolor="#777777"))
    name = f"{room}/" if (REPOSITORY / "summarizer" / room).is_dir() else f"{room}.py"
    if room not in data["says"]:
        axes.text(x + box / 2, y + BAND / 2, name, ha="center", va="center", fontsize=8.5, weight="bold")
        return
    imports = f"imports {', '.join(data['imports'][room])}" if data["imports"][room] else ""
    axes.text(x + 0.12, y + BAND / 2, name, va="center", fontsize=11, weight="bold")
    axes.text(
        x + 1.45,
        y + (0.66 if imports else 0.5) * BAND,
        data["says"][room],
        va="center",
        fontsize=8,
        color="#222222",
    )
    axes.text(x + 1.45, y + 0.29 * BAND, imports, va="center", fontsize=7.5, color="#5a6b85")


def drawn_from(picture: Path) -> dict[str, Any]:
    """The data in a picture that `draw` wrote."""
    found = re.search(
        r"<dc:description>(.*?)</dc:description>", picture.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    if found is None:
        raise ValueError(f"{picture} carries no data")
    return dict(json.loads(html.unescape(found[1])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--png", type=Path, help="write a PNG too")
    asked = parser.parse_args()
    draw(read_layers(), [PICTURE, *([asked.png] if asked.png else [])])


if __name__ == "__main__":
    main()
