"""List the licence of everything that `pip install cpc-audio` installs, extras included.

python .ci/licences.py              a line for each package; exit status 1 if one does not state its licence
python .ci/licences.py align abx    with these extras alone
"""

import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

STATED_ELSEWHERE = {  # their packages say nothing
    "cuda-toolkit": "no content of its own, requires NVIDIA's packages",
    "espeakng-loader": "contains espeak-ng, GPL-3.0-or-later",
}
EXTRAS = ("demo", "align", "abx", "text")  # those that users install; tools for tests and development are not passed on


def installed(name: str, extras: Iterable[str]) -> dict[str, Distribution]:
    """Collect a package and what it requires on this machine, by name; what is not installed is left out."""
    found: dict[str, Distribution] = {}
    waiting = [(name, frozenset(extras))]
    seen = set()
    while waiting:
        package, wanted = waiting.pop()
        key = re.sub(r"[-_.]+", "-", package).lower()
        if (key, wanted) in seen:
            continue
        seen.add((key, wanted))
        try:
            found[key] = distribution(package)
        except PackageNotFoundError:
            continue
        for text in found[key].requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in (*wanted, "")):
                waiting.append((needed.name, frozenset(needed.extras)))
    return found


def licence(package: Distribution) -> str:
    """Return what a package states as its licence, in a few words; empty if it states none."""
    stated = package.metadata
    classifiers = [
        text.rpartition(" :: ")[2] for text in stated.get_all("Classifier", ()) if text.startswith("License ::")
    ]
    first_line = (stated.get("License") or "").strip().partition("\n")[0]
    return (
        stated.get("License-Expression")
        or ", ".join(classifiers)
        or first_line[:60]
        or STATED_ELSEWHERE.get(stated["Name"], "")
    )


def main(extras: list[str]) -> int:
    """Print the list."""
    found = installed("cpc-audio", extras or EXTRAS)
    for name, package in sorted(found.items()):
        print(f"{name:32s} {package.version:16s} {licence(package) or 'NOT STATED'}")
    return int(not all(map(licence, found.values())))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
