import itertools
from pathlib import Path

import numpy as np
import pytest
from magika import Magika

from evaluation import direct, models


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "new"
    models.build(folder)
    return folder


@pytest.fixture(scope="module", params=models.Vision)
def vision(request, directory, tmp_path_factory):
    folder = directory
    if not (folder / request.param.file).exists():
        folder = tmp_path_factory.mktemp(request.param.value)
        models.build(folder, request.param)
        assert sorted(path.name for path in folder.iterdir()) == sorted(["magika.onnx", request.param.file])
    return direct.session(folder / request.param.file)


@pytest.fixture(scope="module")
def magika(directory):
    return direct.session(directory / models.MAGIKA)


def test_only_whole_models_are_left_behind(directory):
    assert sorted(path.name for path in directory.iterdir()) == ["magika.onnx", "vision.onnx"]


def test_tensors_are_named_and_shaped_as_promised(vision, magika):
    def describe(tensors):
        return [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in tensors]

    assert describe(vision.get_inputs()) == [("image", "tensor(uint8)", ["height", "width", 3])]
    assert describe(vision.get_outputs()) == [("probabilities", "tensor(float)", [1000])]
    assert describe(magika.get_inputs()) == [("bytes", "tensor(int32)", [2048])]
    assert describe(magika.get_outputs()) == [("target_label", "tensor(float)", [214])]


def test_a_batch_answers_as_its_rows_do(vision):
    same_size = (picture for picture in models.pictures(seed=1) if picture.shape[0] == 240)
    batch = np.stack(list(itertools.islice(same_size, 3)))
    single = np.concatenate([direct.run(vision, picture[None]) for picture in batch])
    np.testing.assert_allclose(direct.run(vision, batch), single, rtol=1e-3, atol=1e-6)


def test_different_pictures_have_clearly_different_answers(vision):
    rows = [direct.run(vision, picture[None])[0] for picture in itertools.islice(models.pictures(seed=2), 12)]
    np.testing.assert_allclose(np.sum(rows, axis=1), 1, rtol=1e-4)
    assert len({int(row.argmax()) for row in rows}) >= 8
    for one, other in itertools.combinations(rows, 2):
        assert np.abs(one - other).max() > 0.01


def test_answers_are_compared_beyond_rounding_and_not_beyond_meaning(vision, magika):
    one, other = (direct.run(vision, next(models.pictures(seed))[None]) for seed in (5, 6))
    assert models.same_probabilities(one, one * np.float32(1.001))
    assert not models.same_probabilities(one, other)
    python, html = (
        direct.run(magika, models.features(content)[None])
        for content in (
            b"import os\n\ndef f(x):\n    return os.path.join(x)\n" * 9,
            b"<html><body><p>Hello</p></body></html>" * 9,
        )
    )
    assert models.same_label(python, python * np.float32(1.001))
    assert not models.same_label(python, html)


def test_pictures_are_those_of_cameras():
    sample = list(itertools.islice(models.pictures(seed=3), 60))
    assert {picture.shape for picture in sample} == {(side, side, 3) for side in models.SIDES}
    assert all(picture.dtype == np.uint8 and 100_000 <= picture.nbytes <= 500_000 for picture in sample)
    # Neighbouring pixels resemble each other, far ones do not.
    smooth = [np.abs(np.diff(picture.astype(int), axis=0)).mean() for picture in sample]
    assert max(smooth) < 10 < min(picture.std() for picture in sample)
    again = models.pictures(seed=3)
    assert all(np.array_equal(picture, next(again)) for picture in sample[:3])
    assert not np.array_equal(next(models.pictures(seed=4)), sample[0])


def test_labels_are_those_of_magika(magika):
    reference = Magika()
    paths = models.files(60)
    contents = [path.read_bytes() for path in paths]
    scores = direct.run(magika, np.stack([models.features(content) for content in contents]))
    expected = [str(reference.identify_bytes(content).output.label) for content in contents]
    assert [models.file_label(row) for row in scores] == expected
    assert len(paths) >= 20
    assert len(set(expected)) >= 10


@pytest.mark.parametrize(
    "content",
    [
        b"  \n def f(x):\n    return x\n" + b" " * 20,
        b"\t" * 3000 + b"%PDF-1.4 something" * 5,
        b"x = 1\n" * 2000 + b"\n" * 5000,
        bytes(range(256)) * 40,
    ],
)
def test_features_of_odd_files_lead_to_magikas_answer(magika, content):
    scores = direct.run(magika, models.features(content)[None])[0]
    prediction = Magika().identify_bytes(content).prediction
    assert models.file_label(scores) == str(prediction.output.label)
    assert scores.max() == pytest.approx(prediction.score, abs=1e-4)


@pytest.mark.parametrize("content", [b"", b"short", b" " * 5000 + b"late text"])
def test_files_that_magika_answers_without_its_model_are_refused(content):
    with pytest.raises(ValueError, match="at least 8 bytes"):
        models.features(content)


def test_files_are_found_in_the_same_order_again():
    assert models.files(30) == models.files(60)[:30]


def test_there_are_214_labels():
    assert len(models.labels()) == len(set(models.labels())) == 214
