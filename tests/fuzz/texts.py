"""What a refusal may say."""

import re

MAX_CHARS = 512

# The field that a text is about is what it begins with.
_FIELD = re.compile(
    r"(request|model_name|model_version|raw_input_contents( of \w+)?"
    r"|(inputs|outputs)(\[\w+\])?(\.\w+)*|parameters\.\w+): "
)
# What was found, as repr shows it; the text may have been cut within.
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*('|\.\.\.$)|"(?:[^"\\]|\\.)*("|\.\.\.$)""")
# Code, and what only looks like it where it is not a text of ours: gRPC tells of frames and headers as it likes.
_CODE = re.compile(
    r"Traceback|\w(Error|Exception)\b|\.py|\.cc|\.onnx|<class|object at|protobuf|google|numpy|asyncio"
)
_ODD = re.compile(r"0x[0-9a-f]{4}|onnxruntime|/|\binf\b|\bnan\b|\d{100}")
_TRANSPORT = "Failed parsing HTTP/2 ("


def field(text: str) -> str | None:
    """The field that a refusal of a request names, None if it names none."""
    match = _FIELD.match(text)
    return match[0][:-2] if match else None


def shape(text: str) -> str:
    """The text without what differs from request to request."""
    numbered = re.sub(r"-?\d+(\.\d+)?", "#", _QUOTED.sub("'…'", text))
    return re.sub(r"#(, (#|\.\.\.))+", "#…", numbered)


def leak(text: str) -> str | None:
    """What a text says that is not for clients, None if nothing."""
    if len(text) > MAX_CHARS:
        return f"{len(text)} characters"
    own = _QUOTED.sub("", text)
    match = _CODE.search(own) or (None if own.startswith(_TRANSPORT) else _ODD.search(own))
    return match[0] if match else None
