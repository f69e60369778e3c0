"""Write constraints.txt: the exact versions installed here of everything that `.[dev,gpu]` needs, and nothing else.

Run it in an environment in which the suite has passed: python scripts/make_constraints.py
"""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# One tested set of versions (Python 3.11): pip install -c constraints.txt ".[dev]"
# Made by scripts/make_constraints.py; pyproject.toml holds the floors.
"""


def main() -> None:
    """Read pyproject.toml, write constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [Requirement(line) for line in project["project"]["dependencies"]]
    for lines in project["project"]["optional-dependencies"].values():
        wanted += [Requirement(line) for line in lines]
    wanted += [Requirement(line) for line in project["build-system"]["requires"]]
    lines = sorted(f"{name}=={version}" for name, version in closure(wanted).items())
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(lines) + "\n", "utf-8")
    print(f"constraints.txt: {len(lines)} packages")


def closure(wanted: list[Requirement]) -> dict[str, str]:
    """Every installed package that these need, with its version; what is not installed here is left out."""
    versions: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    waiting = [(requirement, extra) for requirement in wanted for extra in ("", *requirement.extras)]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in done or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        done.add((name, extra))
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        versions[name] = package.version.split("+")[0]
        for line in package.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                needed.marker = None
                waiting += [(needed, inner) for inner in ("", *needed.extras)]
    return versions


if __name__ == "__main__":
    main()
