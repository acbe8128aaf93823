"""The fuzzers, for a moment each; `make fuzz` has them run for longer."""

import pytest

from tests.fuzz import decoder, target, texts, wire


class TestTexts:
    @pytest.mark.parametrize(
        ("text", "field"),
        [
            ("request: expected a ModelInferRequest", "request"),
            ("inputs[x].contents.fp32_contents: expected 1", "inputs[x].contents.fp32_contents"),
            ("raw_input_contents of x: expected 4 bytes", "raw_input_contents of x"),
            ("parameters.slo_ms: expected a finite number", "parameters.slo_ms"),
            ("something went wrong", None),
            ("ValueError: x", None),
        ],
    )
    def test_begin_with_a_field(self, text, field):
        assert texts.field(text) == field

    @pytest.mark.parametrize(
        "text",
        [
            "request: Traceback (most recent call last)",
            "request: ValueError(1)",
            "request: /usr/lib",
            "request: in codec.py",
            "request: google.protobuf",
            "parameters.slo_ms: found inf",
            "request: " + "x" * 512,
        ],
    )
    def test_that_tell_too_much(self, text):
        assert texts.leak(text)

    @pytest.mark.parametrize(
        "text", ["inputs: found '/etc/x.py'", 'inputs: found "it\'s.py"', "inputs: found 'cut.py..."]
    )
    def test_may_show_what_the_client_sent(self, text):
        assert texts.leak(text) is None


def test_the_decoder():
    """Each field that can be wrong is, some times, and nothing else comes of it than a refusal that names it."""
    findings = decoder.run(inputs=20_000, seed=0)
    assert findings.violations == []
    assert findings.inputs == 20_000
    assert findings.answered
    assert {
        "deadline",
        "request",
        "model_name",
        "model_version",
        "inputs",
        "inputs[x].datatype",
        "inputs[x].shape",
        "inputs[x].contents",
        "inputs[x].parameters",
        "outputs",
        "raw_input_contents",
        "raw_input_contents of x",
        "parameters.slo_ms",
        "parameters.grace_ms",
        "parameters.priority",
    } <= findings.refused.keys()


def test_the_socket(tmp_path):
    with target.echo(tmp_path) as worker:
        findings = wire.run(worker, calls=400, seed=0, warm_ups=2)
    # A worker of this age still fills its caches.
    assert [each for each in findings.violations if each != "memory grew"] == []
    assert findings.calls >= 400
    assert {
        "OK",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "INTERNAL",
        "DEADLINE_EXCEEDED",
    } <= findings.statuses.keys()
