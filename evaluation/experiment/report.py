"""`sponge report`: what experiments found as a page, and in a document written by hand."""

import sys
from pathlib import Path

from evaluation.experiment import html, markdown, results
from evaluation.experiment.markdown import MarkerError
from evaluation.experiment.results import Results, ResultsError


def run(directory: Path, page: Path | None, document: Path | None) -> int:
    """Write `page`, rewrite the blocks of `document`; 2 and one line on stderr for what cannot be used."""
    try:
        found = results.read(directory)
        if document is not None:
            _rewrite(document, found)
        if page is not None:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(html.render(found), encoding="utf-8")
            for name in found.missing:
                _tell(f"{directory / name}: missing; the page says so in its place")
            print(f"report: {page}")
    except (ResultsError, OSError) as error:
        _tell(str(error))
        return 2
    except MarkerError as error:
        _tell(f"{document}:{error}")
        return 2
    except UnicodeDecodeError:
        _tell(f"{document}: expected text in UTF-8")
        return 2
    return 0


def _rewrite(document: Path, found: Results) -> None:
    """All or nothing: a document with a marker that is not understood stays as it is."""
    text = document.read_text(encoding="utf-8")
    document.write_text(markdown.update(text, found.findings), encoding="utf-8")
    for name in markdown.untold(text, found.findings):
        _tell(f"{document}: no block of {name}")
    print(f"tables: {document}")


def _tell(text: str) -> None:
    print(f"sponge report: {text}", file=sys.stderr)
