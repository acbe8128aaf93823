import itertools

import numpy as np
import pytest

from evaluation import direct
from evaluation.serving import networks, subjects


@pytest.fixture(scope="module")
def minilm():
    return direct.session(networks.minilm().SerializeToString())


@pytest.fixture
def tokens():
    return np.random.default_rng(3).integers(1, networks.VOCABULARY, (6, networks.TOKENS))


def test_embeddings_of_different_texts_differ_and_batches_change_little(minilm, tokens):
    single = np.concatenate([direct.run(minilm, row[None]) for row in tokens])
    np.testing.assert_allclose(np.linalg.norm(single, axis=1), 1, rtol=1e-5)
    for one, other in itertools.combinations(single, 2):
        assert not subjects.alike(one, other)
    for one, of_batch in zip(single, direct.run(minilm, tokens), strict=True):
        assert subjects.alike(one, of_batch)


def test_tokens_of_nothing_are_not_seen(minilm, tokens):
    padded = np.concatenate([tokens, np.zeros((6, 8), np.int64)], axis=1)
    for one, other in zip(direct.run(minilm, tokens), direct.run(minilm, padded), strict=True):
        assert float(one @ other) > 0.999


def test_minilm_is_int8():
    model = networks.minilm()
    assert model.ByteSize() == pytest.approx(23e6, rel=0.05)
    products = [node.op_type for node in model.graph.node if "MatMul" in node.op_type]
    # Six a layer are of weights, and two of what attention computes.
    assert (products.count("MatMulInteger"), products.count("MatMul")) == (36, 12)


@pytest.mark.parametrize("name", [subjects.MLP, subjects.BULK])
def test_a_subject_knows_its_model_and_the_right_answers(name, tmp_path):
    subject = subjects.build(name, tmp_path)
    session = direct.session(subject.path)
    for payload in subject.payloads:
        assert payload.rows.shape == (1, *subject.row)
        assert payload.rows.tobytes() == payload.body
        assert payload.body in payload.request
        assert payload.expected.shape == (1, *subject.answer)
        assert subject.agrees(payload.expected, direct.run(session, payload.rows))
    first, second, *_ = subject.payloads
    assert not subject.agrees(first.expected, second.expected)
    assert [subject.path.stat().st_size > 9e6, first.rows.nbytes] == (
        [True, 1024] if name == subjects.MLP else [False, 600_000]
    )
