"""What all pages share: one look, and a frame that needs nothing but a browser."""

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template


def framed(title: str, body: str) -> str:
    """Give the document around `body`, which is HTML; `title` is text.

    The stylesheet defines the colours --page, --raised, --ink, --soft and --faint, and one for each policy and
    outcome, for light, dark and print.
    """
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return _FRAME.substitute(title=escape(title), style=style, body=body)


def settings(told: Mapping[str, str]) -> str:
    """Give a list of names and values."""
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in told.items())}</dl>"


def command(line: str) -> str:
    """Give a box with what to type."""
    return f"<pre><code>{escape(line)}</code></pre>"


_FRAME = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<h1>Sponge</h1>
$body</body>
</html>
""")
