"""The site is built strictly and without a network, is complete, and loads nothing from elsewhere."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import secateur
from support.pages import ROOT

BLOCKED = "http://127.0.0.1:9"  # nothing listens there


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built site; broken links and anchors are errors."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    environment |= {"http_proxy": BLOCKED, "https_proxy": BLOCKED}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Assets(HTMLParser):
    """What a browser fetches for a page by itself: scripts, styles, pictures, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.classes |= set((values.get("class") or "").split())
        fetched = tag == "link" and values.get("rel") not in {"prev", "next", "canonical"}
        for attribute in ("src", "srcset", "data", "href" if fetched else "src"):
            if values.get(attribute):
                self.found.append(str(values[attribute]))


def assets(page: Path) -> Assets:
    parser = Assets()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def test_no_page_fetches_anything_from_another_host(site: Path) -> None:
    found = {str(page.relative_to(site)): assets(page) for page in site.rglob("*.html")}
    assert len(found) > 40
    assert all(each.found for each in found.values())
    elsewhere = re.compile(r"(\w+:)?//")
    outside = [(name, url) for name, each in found.items() for url in each.found if elsewhere.match(url)]
    assert outside == []
    # The theme's script would fetch a library for a diagram.
    assert [name for name, each in found.items() if "mermaid" in each.classes] == []
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8"))


def public_names() -> Iterator[tuple[str, str]]:
    for package in secateur.__all__:
        module = getattr(secateur, package)
        for name in getattr(module, "__all__", []):
            yield package, name


def test_the_reference_has_every_public_name(site: Path) -> None:
    pages = {page.stem: page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html")}
    missing = [
        f"{package}.{name}"
        for package, name in public_names()
        if not re.search(rf'id="secateur\.[\w.]*\b{name}"|<code>{name}</code>: see', pages[package])
    ]
    assert missing == []
    for name in secateur._PACKAGE_OF:
        assert f"secateur.{name}" in pages["index"]


def test_every_command_has_its_section(site: Path) -> None:
    app = importlib.import_module("secateur.cli").app
    text = (site / "commands.html").read_text(encoding="utf-8")
    for command in app.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")
        assert f"secateur {name}</code>" in text


def test_search_finds_pages_and_docstrings(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"] for entry in index["docs"]}
    assert {"install.html", "tutorials/trained.html", "changelog.html"} <= places
    assert any(place.endswith("#secateur.pruning.trained.prune_trained") for place in places)


def test_formulas_are_mathml(site: Path) -> None:
    text = (site / "theory.html").read_text(encoding="utf-8")
    assert text.count("<math") >= 8
    assert "$" not in re.sub(r"<code.*?</code>|<script.*?</script>", "", text, flags=re.DOTALL)


def test_doctests_are_shown_as_code(site: Path) -> None:
    text = (site / "api" / "reduction.html").read_text(encoding="utf-8")
    assert "<blockquote>" not in text
    assert '<span class="gp">&gt;&gt;&gt; </span>' in text
