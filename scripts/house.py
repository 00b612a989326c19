"""Count lines, files and public names of the package, in all and by room.

    python scripts/house.py [DIRECTORY ...]      # of `src/secateur` by default; several are put side by side

Public names are those of each module's `__all__`. Repeated passages are counted by pylint:

    pylint --disable=all --enable=duplicate-code --min-similarity-lines=6 src/secateur | grep -c R0801
"""

import ast
import sys
from collections import Counter
from pathlib import Path


def public_names(module: ast.Module) -> int:
    """Return the length of a module's `__all__`; 0 where it has none."""
    for node in module.body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets):
            return len(ast.literal_eval(node.value))
    return 0


def count(package: Path) -> dict[str, Counter[str]]:
    """Return lines, files and public names by room: a subpackage, or a module of the package itself."""
    rooms: dict[str, Counter[str]] = {}
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        room = path.relative_to(package).parts[0].removesuffix(".py")
        found = Counter(lines=len(text.splitlines()), files=1, names=public_names(ast.parse(text)))
        for name in (room, "in all"):
            rooms.setdefault(name, Counter()).update(found)
    return rooms


def main(*directories: str) -> None:
    """Print one row for each room: lines, files and public names of each directory."""
    found = [count(Path(each)) for each in directories or ("src/secateur",)]
    rooms = sorted({room for each in found for room in each}, key=lambda room: (room == "in all", room))
    print(f"{'room':<16}" + "   lines  files  names" * len(found))
    for room in rooms:
        columns = [each.get(room, Counter()) for each in found]
        print(f"{room:<16}" + "".join(f"{c['lines']:>8}{c['files']:>7}{c['names']:>7}" for c in columns))


if __name__ == "__main__":
    main(*sys.argv[1:])
