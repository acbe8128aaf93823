"""Models from installed packages, no download: networks on pictures, magika on files; and input for both."""

import enum
import importlib.util
import itertools
import json
import shutil
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from evaluation import direct, networks

Floats = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

VISION, MAGIKA = "vision.onnx", "magika.onnx"
# Sides of square RGB pictures: 100 to 500 KB, 286 KB in the mean. A few fixed sizes, as cameras have them.
SIDES = (183, 240, 288, 320, 360, 408)

# Folders with nothing for `files`: other packages differ between machines, and tests carry broken files.
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__"})


class Vision(enum.Enum):
    """Which network looks at pictures. All take and give the same, with random weights that never change."""

    RESNET50 = "resnet50"
    SQUEEZENET = "squeezenet"  # a small fraction of the work

    @property
    def file(self) -> str:
        return VISION if self is Vision.RESNET50 else f"vision-{self.value}.onnx"


def build(directory: Path, vision: Vision = Vision.RESNET50) -> None:
    """Write vision.onnx and magika.onnx into `directory`, which is made if need be; about 100 MB, seconds.

    vision.onnx: ResNet-50; with another `vision` its file. "image" uint8 [N, H, W, 3] of any size →
    "probabilities" float32 [N, 1000]. The architecture, and with it the work, is the real one; the weights are
    random, and the same on every run.
    magika.onnx: Google's file-type model as published. "bytes" int32 [N, 2048] → "target_label" float32
    [N, 214]: see `features` and `file_label`.

    Raises ModuleNotFoundError if the package that carries magika is not installed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / ".partial.onnx"  # a broken-off build must not look like a model
    shutil.copyfile(_magika_folder() / "model.onnx", partial)
    partial.replace(directory / MAGIKA)
    onnx.save(network(vision), partial)
    partial.replace(directory / vision.file)


def network(vision: Vision) -> onnx.ModelProto:
    """Give what `build` writes for `vision`."""
    make = networks.resnet50 if vision is Vision.RESNET50 else networks.squeezenet
    return make(_embeddings)


def pictures(seed: int) -> Iterator[Picture]:
    """Yield pictures [side, side, 3] without end: clouds of colour with detail at every scale, as in nature."""
    rng = np.random.default_rng(seed)
    while True:
        side = int(rng.choice(SIDES))
        planes = np.zeros((3, side, side), np.float32)
        for cells in (2, 4, 8, 16, 32, 64):  # amplitude ∝ 1/frequency, as in natural scenes
            spread = _interpolation(side, cells)
            planes += spread @ rng.standard_normal((3, cells, cells), np.float32) @ spread.T / cells
        planes = 128 + 55 * (planes - planes.mean()) / planes.std()
        yield np.ascontiguousarray(np.clip(planes, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _interpolation(side: int, cells: int) -> Floats:
    """Give the matrix [side, cells] of linear interpolation from a coarse row to a fine one."""
    position = np.linspace(0, cells - 1, side)
    weights: Floats = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells))).astype(np.float32)
    return weights


def files(limit: int = 60) -> tuple[Path, ...]:
    """Give real files of many types that come with Python and the demo's packages, in an order that is stable.

    All are long enough for magika's model to be asked.
    """
    folders = [Path(sysconfig.get_path("stdlib"))]
    specs = [importlib.util.find_spec(name) for name in ("magika", "matplotlib", "numpy", "onnx", "rich")]
    folders += [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin]
    by_suffix: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.glob("**/*")):
            if not _LEFT_OUT.isdisjoint(path.relative_to(folder).parts):
                continue
            if path.is_file() and 64 <= path.stat().st_size <= 1 << 20:
                by_suffix.setdefault(path.suffix, []).append(path)
    # One of each type, then a second of each, and so on.
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*by_suffix.values()))
    usable = (path for path in rounds if path is not None and _is_for_model(path.read_bytes()))
    return tuple(itertools.islice(usable, limit))


def features(content: bytes) -> npt.NDArray[np.int32]:
    """Give what magika's model sees of a file, int32 [2048]: its first and last 1024 bytes.

    White space is stripped from the outer ends of the first and last 4096 bytes before; what is missing is
    256. Raises ValueError for a file too short for the model: magika answers those without it.
    """
    if not _is_for_model(content):
        raise ValueError("expected a file of at least 8 bytes besides leading white space")
    config = _magika_config()
    block, half, padding = config["block_size"], config["beg_size"], config["padding_token"]
    row = np.full(2 * half, padding, np.int32)
    first = np.frombuffer(content[:block].lstrip()[:half], np.uint8)
    last = np.frombuffer(content[-block:].rstrip()[-half:], np.uint8)
    row[: first.size] = first
    row[row.size - last.size :] = last
    return row


def _is_for_model(content: bytes) -> bool:
    config = _magika_config()
    return len(content[: config["block_size"]].lstrip()) >= int(config["min_file_size_for_dl"])


def labels() -> tuple[str, ...]:
    """Give the file types in the order of the model's 214 outputs."""
    return tuple(_magika_config()["target_labels_space"])


def file_label(scores: npt.NDArray[Any]) -> str:
    """Give magika's answer for one row of the model's output [214]; its default mode, "high confidence".

    The likeliest type if its score reaches that type's threshold, else "txt" or "unknown".
    """
    config = _magika_config()
    best = int(np.argmax(scores))
    guess = labels()[best]
    label: str = config["overwrite_map"].get(guess, guess)
    if scores[best] >= config["thresholds"].get(guess, config["medium_confidence_threshold"]):
        return label
    return "txt" if label in _text_types() else "unknown"


def same_probabilities(expected: npt.NDArray[Any], answer: npt.NDArray[Any]) -> bool:
    """Whether two rows of vision.onnx differ by rounding only, as they do between batches and machines."""
    return bool(np.allclose(answer, expected, rtol=1e-2, atol=1e-4))


def same_label(expected: npt.NDArray[Any], answer: npt.NDArray[Any]) -> bool:
    """Whether two rows of magika.onnx name the same file type."""
    return file_label(expected.ravel()) == file_label(answer.ravel())


def _magika_package() -> Path:
    """Give magika's folder without importing it, which would be slow."""
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("magika: expected to be installed, as sponge-serving[demo] does")
    return Path(spec.origin).parent


def _magika_folder() -> Path:
    return max((_magika_package() / "models").glob("standard_v*"))


@cache
def _magika_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((_magika_folder() / "config.min.json").read_text())
    return config


@cache
def _text_types() -> frozenset[str]:
    types = json.loads((_magika_package() / "config" / "content_types_kb.min.json").read_text())
    return frozenset(name for name, about in types.items() if about["is_text"])


def _embeddings(model: onnx.ModelProto, tensor: str, width: int) -> Floats:
    """What sample pictures [1, side, side, 3] become at an inner tensor of a vision model: rows of `width`."""
    model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    inner = direct.session(model.SerializeToString())
    model.graph.output.pop()
    samples = [picture[None] for picture in itertools.islice(pictures(seed=0), 24)]
    seen = [inner.run([tensor], {"image": sample})[0].reshape(-1, width) for sample in samples]
    found: Floats = np.concatenate(seen)
    return found
