"""Write the site's pages that come from the code: API reference, commands, changelog. A hook of MkDocs."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

import secateur
from secateur.cli import app

_NOT_IN_THE_REFERENCE = {"cli", "grid", "reports", "shapes", "version"}
"""The command line has a page of its own; the others serve it."""

_ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and put every page that `nav` does not name at the end of "How to".

    Args:
        files: The files of `docs/`.
        config: The site's configuration, changed in place.
    """
    pages = {f"api/{module.__name__.partition('.')[2]}.md": api_page(module) for module in public_modules()}
    sections = {title: content for entry in config.nav or [] for title, content in entry.items()}
    sections["Reference"] += sorted(pages)
    pages["api/index.md"] = api_index()
    pages["commands.md"] = commands_page()
    pages["changelog.md"] = (_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    named = set(_paths(config.nav))
    sections["How to"] += sorted(
        file.src_uri for file in files.documentation_pages() if file.src_uri not in named
    )
    return files


def public_modules() -> Iterator[ModuleType]:
    """Yield the packages and modules that belong in the reference, in alphabetical order."""
    for found in pkgutil.iter_modules(secateur.__path__, "secateur."):
        if found.name.partition(".")[2] in _NOT_IN_THE_REFERENCE or found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        if getattr(module, "__all__", None):
            yield module
        elif found.ispkg:  # a folder of integrations: its modules are what is public
            inner = pkgutil.iter_modules(module.__path__, f"{found.name}.")
            yield from (importlib.import_module(each.name) for each in inner)


def api_page(module: ModuleType) -> str:
    """Return the page of one module: its docstring, and an entry for each name in its `__all__`."""
    lines = [f"# {module.__name__}", "", module.__doc__ or ""]
    for name in module.__all__:
        defined = where_defined(module, name)
        if defined.startswith(f"{module.__name__}."):
            lines += ["", f"::: {defined}"]
        else:  # the page of another package has it
            lines += ["", f"`{name}`: see [`{defined}`][]."]
    return "\n".join([*lines, ""])


def where_defined(module: ModuleType, name: str) -> str:
    """Return the full path of a public name: a function may have the name of the file that defines it."""
    value = getattr(module, name)
    if isinstance(value, type | FunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    return value.__name__ if isinstance(value, ModuleType) else f"{module.__name__}.{name}"


def api_index() -> str:
    """Return the first page of the reference: the names of `secateur` itself, and its packages."""
    lines = ["# API reference", "", "Names of `secateur` itself:", "", "| name | what it does |", "|---|---|"]
    for name in secateur._PACKAGE_OF:
        value = getattr(secateur, name)
        lines.append(f"| [`secateur.{name}`][{where_defined(secateur, name)}] | {_first_line(value)} |")
    lines += ["", "Packages:", "", "| package | what is in it |", "|---|---|"]
    for module in public_modules():
        page = f"{module.__name__.partition('.')[2]}.md"
        lines.append(f"| [`{module.__name__}`]({page}) | {_first_line(module)} |")
    return "\n".join([*lines, ""])


def commands_page() -> str:
    """Return the page of the command line: every subcommand with its arguments and options."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="secateur")
    text = get_docs_for_click(obj=group, ctx=context, name="secateur", title="Commands")
    return text.replace("$SECATEUR", "SECATEUR")  # a dollar sign would begin a formula


def _paths(nav: object) -> Iterator[str]:
    """Yield every path that a `nav` names."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for content in nav.values():
            yield from _paths(content)
    elif isinstance(nav, list):
        for entry in nav:
            yield from _paths(entry)


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").partition("\n")[0]
