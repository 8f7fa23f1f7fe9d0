"""The list of papers, computed by scanning `papers/` for modules with a `PAPER`. Nothing is listed by hand."""

import importlib
import pkgutil
import re
from collections.abc import Mapping
from typing import get_args

import papers
from alignjax.record import Source
from papers.record import Paper, Verdict

RESERVED = ("all", "docs")
"""Words of the command line, which no paper may be named."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_FILE = re.compile(r"[A-Za-z0-9]+([-_.][A-Za-z0-9]+)*")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}")


class PaperError(ValueError):
    """A paper's record is incomplete or clashes with another; the message says which and how."""


def _source(where: str, source: object) -> None:
    if not isinstance(source, Source):
        raise PaperError(f"{where}: source must be an alignjax.record.Source, got {source!r}")
    if not source.authors.strip() or not source.year:
        raise PaperError(f"{where}: the source lacks its authors or its year")
    if not (source.arxiv or source.venue.strip()):
        raise PaperError(f"{where}: the source needs an arXiv id or a venue")
    if source.arxiv and not _ARXIV.fullmatch(source.arxiv):
        raise PaperError(f"{where}: {source.arxiv!r} is not an arXiv id such as 2312.00886")


def check(paper: Paper) -> None:
    """Raises PaperError on what a page could not show: a missing sentence, an id that is not the paper's, a clash."""
    where = f"paper {paper.name!r}"
    if not _NAME.fullmatch(paper.name) or paper.name in RESERVED:
        raise PaperError(f"{where}: a name is lower-case words joined by hyphens, and none of {', '.join(RESERVED)}")
    for field in ("title", "summary"):
        if not getattr(paper, field).strip():
            raise PaperError(f"{where} lacks its {field}")
    _source(where, paper.source)
    if not paper.claims:
        raise PaperError(f"{where} has no claims")
    seen: set[str] = set()
    for claim in paper.claims:
        at = f"{where}, claim {claim.id!r}"
        if not claim.id.startswith(f"{paper.name}.") or claim.id == f"{paper.name}.":
            raise PaperError(f"{at}: the id must start with {paper.name + '.'!r}")
        if claim.id in seen:
            raise PaperError(f"{at}: two claims have this id")
        seen.add(claim.id)
        for field in ("says", "how"):
            if not getattr(claim, field).strip():
                raise PaperError(f"{at} lacks {field!r}")
        _source(at, claim.source)
        if not callable(claim.test):
            raise PaperError(f"{at}: test must be a function of the settings")
        if claim.stands not in get_args(Verdict):
            raise PaperError(f"{at}: stands must be one of {', '.join(get_args(Verdict))}, got {claim.stands!r}")
    seen = set()
    for figure in paper.figures:
        at = f"{where}, figure {figure.id!r}"
        if not _FILE.fullmatch(figure.id):
            raise PaperError(f"{at}: the id must do as a file name: letters, digits and single - _ . between them")
        if figure.id.lower() in seen:
            raise PaperError(f"{at}: two figures have this id")
        seen.add(figure.id.lower())
        for field in ("title", "caption"):
            if not getattr(figure, field).strip():
                raise PaperError(f"{at} lacks its {field}")
        if not callable(figure.draw):
            raise PaperError(f"{at}: draw must be a function of the settings")


def collect(modules: Mapping[str, object]) -> dict[str, Paper]:
    """The papers of some modules by name, checked; a duplicate raises."""
    found: dict[str, Paper] = {}
    home: dict[str, str] = {}
    for module_name, module in sorted(modules.items()):
        if not hasattr(module, "PAPER"):
            continue
        paper = module.PAPER
        if not isinstance(paper, Paper):
            raise PaperError(f"{module_name}.PAPER must be a papers.record.Paper, got {type(paper).__name__}")
        check(paper)
        if paper.name in found:
            raise PaperError(f"two papers are named {paper.name!r}: in {home[paper.name]} and {module_name}")
        found[paper.name], home[paper.name] = paper, module_name
    return dict(sorted(found.items()))


def scan(scale: str = "exact") -> dict[str, Paper]:
    """Every paper of this folder, or of that with the runs on language models."""
    package = papers if scale == "exact" else importlib.import_module(f"papers.{scale}")
    names = [info.name for info in pkgutil.iter_modules(package.__path__) if info.name != "__main__"]
    return collect({name: importlib.import_module(f"{package.__name__}.{name}") for name in names})
