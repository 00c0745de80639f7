"""Whether this environment holds the versions that it should: `floors` of pyproject.toml, or the `exact` set.

    .venv-floors/bin/python .ci/installed.py floors
    .venv/bin/python .ci/installed.py exact

Exit code 1 where any differs, each on a line.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    if sys.argv[1:] not in (["floors"], ["exact"]):
        sys.exit(__doc__)
    wanted = floors() if sys.argv[1] == "floors" else exact()
    wrong = [line for name, value in sorted(wanted.items()) if (line := difference(name, value))]
    print("\n".join([*wrong, f"{len(wanted) - len(wrong)} of {len(wanted)} packages are as they should be"]))
    sys.exit(bool(wrong))


def floors() -> dict[str, str]:
    """Of every package that pyproject.toml names, the lowest version it claims. One without is a mistake."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = (project["dependencies"], *project["optional-dependencies"].values())
    found: dict[str, str] = {}
    for requirement in (Requirement(line) for group in groups for line in group):
        claimed = [one.version for one in requirement.specifier if one.operator == ">="]
        found[canonicalize_name(requirement.name)] = claimed[0] if claimed else "a floor in pyproject.toml"
    return found


def exact() -> dict[str, str]:
    """Of every package that constraints.txt has for this Python and machine and that is installed, its version."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        # What only a CUDA build wants is not there beside a CPU build.
        if (requirement.marker is None or requirement.marker.evaluate()) and installed(requirement.name):
            found[canonicalize_name(requirement.name)] = pin.version
    return found


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def difference(name: str, wanted: str) -> str | None:
    """A line for a person, or None. A build of the same release (`+cpu`) is no difference."""
    there = installed(name)
    if there is not None and wanted[0].isdigit() and Version(Version(there).public) == Version(wanted):
        return None
    return f"{name}: {wanted} is wanted, {there or 'nothing'} is installed"


if __name__ == "__main__":
    main()
