"""`sponge report`: what experiments found as a page, and in a document written by hand."""

import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.experiment import html, markdown, results
from evaluation.experiment.markdown import MarkerError
from evaluation.experiment.results import Results, ResultsError


def run(directory: Path, page: Path | None, documents: Sequence[Path]) -> int:
    """Write `page`, rewrite the blocks of `documents`; 2 and one line on stderr for what cannot be used."""
    document = None
    try:
        found = results.read(directory)
        texts = []
        for document in documents:
            texts.append(_rewrite(document, found))
        _tell_untold(documents, texts, found)
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


def _rewrite(document: Path, found: Results) -> str:
    """All or nothing: a document with a marker that is not understood stays as it is."""
    text = document.read_text(encoding="utf-8")
    document.write_text(markdown.update(text, found.findings), encoding="utf-8")
    print(f"tables: {document}")
    return text


def _tell_untold(documents: Sequence[Path], texts: Sequence[str], found: Results) -> None:
    """What should have a block in one of them and has none in any."""
    if documents:
        for name in markdown.untold("\n".join(texts), found.findings):
            _tell(f"{', '.join(map(str, documents))}: no block of {name}")


def _tell(text: str) -> None:
    print(f"sponge report: {text}", file=sys.stderr)
