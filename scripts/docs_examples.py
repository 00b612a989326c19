"""Show the doctests of docstrings as code: an extension of griffe, which reads docstrings for the site."""

import re
from typing import Any

from griffe import Extension, Object

_DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?! *\n| *$).*)*", flags=re.MULTILINE)


class DoctestsAsCode(Extension):
    """Put each doctest, from its first `>>>` to the next empty line, into a fence of its own."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change an object's docstring when it has been read."""
        if obj.docstring is not None:
            obj.docstring.value = _DOCTEST.sub(_fenced, obj.docstring.value)


def _fenced(found: re.Match[str]) -> str:
    return "{indent}```pycon\n{0}\n{indent}```".format(found.group(), indent=found["indent"])
