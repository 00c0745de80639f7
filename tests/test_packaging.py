"""What is installed: the exact set whatever is newer, the floors, and archives that hold all that is needed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from small_runs import REPOSITORY

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
LOCK = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
NAMED = [
    Requirement(line)
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in lines
]
PINS = [Requirement(line) for line in LOCK.splitlines() if line.strip() and not line.lstrip().startswith("#")]

BACKEND = '''
"""In hatchling's place: a wheel of metadata alone, as pyproject.toml has it, and of the version of this."""
import pathlib, tomllib, zipfile

def build_editable(folder, settings=None, metadata=None):
    project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
    version = "0+hatchling.{version}"
    lines = ["Metadata-Version: 2.1", "Name: " + project["name"], "Version: " + version]
    lines += ["Requires-Dist: " + line for line in project["dependencies"]]
    for extra, needed in project["optional-dependencies"].items():
        lines.append("Provides-Extra: " + extra)
        lines += [f"Requires-Dist: {{line}} ; extra == '{{extra}}'" for line in needed]
    stem = project["name"].replace("-", "_") + "-" + version
    info = stem + ".dist-info/"
    with zipfile.ZipFile(pathlib.Path(folder) / (stem + "-py3-none-any.whl"), "w") as wheel:
        wheel.writestr(info + "METADATA", "\\n".join(lines) + "\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return stem + "-py3-none-any.whl"
'''
INSTALLED = (
    "from importlib.metadata import distributions\n"
    "print(*(f'{one.name}=={one.version}' for one in distributions()), sep='\\n')"
)


# ---- the exact set -----------------------------------------------------------------------------------------


def applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()


def pin_of(requirement: Requirement) -> str:
    (pin,) = requirement.specifier
    assert pin.operator == "=="
    return pin.version


def newer(version: str) -> str:
    """A release that is out tomorrow, within every cap of pyproject.toml."""
    major, minor, *_ = (*Version(version).release, 0)
    return f"{major}.{minor}.99999999"  # some number their releases by the day


def fake_wheel(folder: Path, name: str, version: str) -> None:
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{stem}.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    if name == "hatchling":
        files["hatchling/__init__.py"] = ""
        files["hatchling/build.py"] = BACKEND.format(version=version)
    files[f"{stem}.dist-info/RECORD"] = "".join(
        f"{file},,\n" for file in [*files, f"{stem}.dist-info/RECORD"]
    )
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)


@pytest.fixture(scope="module")
def tomorrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index as of tomorrow: of every package the locked release, and a newer one."""
    folder = tmp_path_factory.mktemp("tomorrow")
    for requirement in filter(applies, PINS):
        for version in (pin_of(requirement), newer(pin_of(requirement))):
            fake_wheel(folder, requirement.name, version)
    return folder


@pytest.fixture
def environment(tomorrow: Path) -> dict[str, str]:
    """For pip, to which that index is all there is."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "MAKE", "MFLAGS"))}
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1"}
    return kept | own | {"PIP_FIND_LINKS": str(tomorrow)}


def installed_by(command: list[str], venv: Path, environment: dict[str, str]) -> dict[str, str]:
    """What lies in the environment that a command makes, but for what every new one has."""
    ended = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=250
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    listed = subprocess.run(
        [venv / "bin" / "python", "-I", "-c", INSTALLED],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = dict(line.split("==") for line in listed.stdout.splitlines())
    return {
        canonicalize_name(name): version
        for name, version in found.items()
        if name not in ("pip", "setuptools")
    }


def locked() -> dict[str, str]:
    """Of every package that pyproject.toml names; and what the package itself is built with."""
    pins: dict[str, str] = {canonicalize_name(one.name): pin_of(one) for one in filter(applies, PINS)}
    wanted: dict[str, str] = {
        name: pins[name] for name in map(canonicalize_name, (one.name for one in NAMED))
    }
    return {**wanted, canonicalize_name(PROJECT["name"]): f"0+hatchling.{pins['hatchling']}"}


def tomorrows() -> dict[str, str]:
    own = canonicalize_name(PROJECT["name"])
    found = {name: newer(version) for name, version in locked().items() if name != own}
    return found | {own: f"0+hatchling.{found['hatchling']}"}


@pytest.mark.slow
def test_make_installs_the_exact_set_whatever_is_newer(tmp_path: Path, environment: dict[str, str]) -> None:
    venv = tmp_path / "venv"
    make = ["make", "install", f"PYTHON={sys.executable}", f"VENV={venv}"]
    assert installed_by(make, venv, environment) == locked()
    assert {"transformers", "peft", "accelerate", "datasets", "wandb", "torch"} <= locked().keys()


@pytest.mark.slow
def test_the_readme_s_line_installs_the_exact_set_too(tmp_path: Path, environment: dict[str, str]) -> None:
    """And without its constraints it takes the newer ones, so that this test can fail."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"\n    (python3 -m venv \.venv\n    .*pip install .*)\n", readme)
    line = lines.replace("\n    ", " && ")
    bare = re.sub(r"PIP_(BUILD_)?CONSTRAINT=\S+ ", "", line)
    assert len(bare) < len(line) - 40
    for text, wanted in ((line, locked()), (bare, tomorrows())):
        venv = tmp_path / f"venv{len(text)}"
        command = text.replace(".venv", str(venv)).replace("python3", shlex.quote(sys.executable), 1)
        assert installed_by(["bash", "-c", command], venv, environment) == wanted


def test_the_lock_is_everybodys() -> None:
    """No address, no path, no build for one kind of machine; every package that pyproject.toml names."""
    assert "make lock" in LOCK.splitlines()[1]
    for line in LOCK.splitlines():
        if not line.lstrip().startswith("#"):
            assert "://" not in line
            assert "/" not in line
            assert "+" not in line
    names = {canonicalize_name(pin.name) for pin in PINS}
    assert len(names) > 100
    assert {canonicalize_name(one.name) for one in NAMED} <= names
    built_with = {canonicalize_name(Requirement(line).name) for line in PYPROJECT["build-system"]["requires"]}
    assert built_with | {"setuptools", "editables"} <= names, "setuptools builds what comes as source"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_lock_keeps_pyproject_s_ranges_for_every_python(python: str) -> None:
    here = {"python_version": python, "python_full_version": f"{python}.0"}
    for wanted in NAMED:
        pins = [
            pin_of(pin)
            for pin in PINS
            if canonicalize_name(pin.name) == canonicalize_name(wanted.name)
            and (pin.marker is None or pin.marker.evaluate(here))
        ]
        assert len(pins) == 1, wanted.name
        assert wanted.specifier.contains(pins[0]), wanted.name


# ---- the ranges --------------------------------------------------------------------------------------------


def test_every_dependency_has_a_floor_and_no_cap_on_a_minor_version() -> None:
    assert len(NAMED) > 40
    for requirement in NAMED:
        kinds = [one.operator for one in requirement.specifier]
        assert kinds.count(">=") == 1, f"{requirement}: no floor, or two"
        assert set(kinds) <= {">=", "<", "!="}, requirement
        if requirement.name != "torch":
            caps = [Version(one.version) for one in requirement.specifier if one.operator == "<"]
            assert all(cap.release[1:] in ((), (0,)) for cap in caps), (
                f"{requirement}: capped at a minor version"
            )


def test_extras_that_dev_repeats_are_the_same() -> None:
    extras = PROJECT["optional-dependencies"]
    for name in ("serve", "ctranslate2", "gguf"):
        assert set(extras[name]) <= set(extras["dev"])
    from summarizer.serve import NEEDED

    assert sorted(NEEDED.values()) == sorted(extras["serve"])


@pytest.mark.slow
@pytest.mark.versions
def test_every_module_can_be_imported() -> None:
    script = (
        "import importlib.util, pkgutil, summarizer, hydra_plugins.summarizer_fused as plugin\n"
        "names = [one.name for root in (summarizer, plugin)"
        " for one in pkgutil.walk_packages(root.__path__, root.__name__ + '.')]\n"
        "assert len(names) > 150, len(names)\n"
        # Written in triton's language, which a CPU build of torch does not bring along.
        "cpu = importlib.util.find_spec('triton') is None\n"
        "for name in names:\n"
        "    if not (cpu and '.ops.' in name and name.endswith('_triton')):\n"
        "        importlib.import_module(name)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr


# ---- the archives ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str], str]:
    """Files of the sdist and of the wheel that is built from it, and the wheel's metadata."""
    folder = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as packed:
        source = {name.partition("/")[2] for name in packed.getnames()}
    with zipfile.ZipFile(wheel) as zipped:
        names = set(zipped.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        return source, names, zipped.read(metadata).decode()


def tracked(*folders: str) -> set[str]:
    """What git has below these folders; without git, what lies there."""
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    if listed.returncode == 0:
        return set(listed.stdout.splitlines())
    found = (path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(REPOSITORY)) for path in found if path.suffix != ".pyc"}


@pytest.mark.versions
def test_the_wheel_holds_the_whole_package(archives: tuple[set[str], set[str], str]) -> None:
    _, wheel, metadata = archives
    code = tracked("summarizer", "hydra_plugins")
    config = {f"summarizer/{path}" for path in tracked("conf")}
    assert len(code) > 200
    assert len(config) > 25
    assert code | config <= wheel
    suffixes = {Path(path).suffix for path in code}
    assert {".c", ".h", ".safetensors", ".json", ".jsonl", ".js", ".css", ".html"} <= suffixes
    strangers = {name for name in wheel if not name.startswith(("summarizer/", "hydra_plugins/"))}
    assert all(".dist-info/" in name for name in strangers)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in strangers)
    assert any(name.endswith(".dist-info/entry_points.txt") for name in strangers)
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


@pytest.mark.versions
def test_the_sdist_holds_what_a_checkout_needs(archives: tuple[set[str], set[str], str]) -> None:
    source, _, _ = archives
    wanted = tracked("summarizer", "hydra_plugins", "conf", "docs", "tests", "experiments", ".ci")
    top = {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
    }
    assert wanted | top <= source
