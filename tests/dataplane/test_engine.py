import hashlib
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto

from dataplane.codec import Codec
from dataplane.engine import Engine, ModelError
from dataplane.execution import EngineError, Runs
from dataplane.message import parse
from dataplane.tensors import TensorSpec
from protos import inference_pb2 as pb
from tests import models

TELL = """
import json, pathlib, sys
from dataplane.engine import Engine
engine = Engine(pathlib.Path(sys.argv[1]), "weighty", "1", max_rungs=2)
for threads in (2, 3):
    engine.prepare(threads, [1])
    print(json.dumps(engine.rung_bytes()))
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def rows(*values):
    return {"x": np.array([[value] * 4 for value in values], np.float32)}


def _sizes(tokens):
    return {"ids": [tokens], "weights": [tokens]}


class TestLoading:
    def test_signature(self, path):
        engine: Runs = Engine(models.two_inputs(path), "pair", "7")
        signature = engine.signature
        assert (signature.name, signature.version, signature.batched) == ("pair", "7", True)
        assert signature.inputs == (
            TensorSpec("ids", "INT64", (None, None)),
            TensorSpec("weights", "FP32", (None, None)),
        )
        assert signature.outputs == (
            TensorSpec("score", "FP32", (None,)),
            TensorSpec("sign", "BYTES", (None,)),
        )

    def test_digest_is_the_files(self, path):
        engine = Engine(models.scale(path), "scale", "1")
        assert engine.digest == hashlib.sha256(path.read_bytes()).hexdigest()

    def test_missing_file(self, path):
        with pytest.raises(ModelError, match=r"model\.onnx: cannot be read: No such file"):
            Engine(path, "m", "1")

    @pytest.mark.parametrize("content", [b"", b"hello"], ids=["empty", "not ONNX"])
    def test_broken_file(self, path, content):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"model\.onnx") as caught:
            Engine(path, "m", "1")
        assert "\n" not in str(caught.value)

    def test_datatype_that_cannot_be_served(self, path):
        with pytest.raises(ModelError, match=r"x is a seq\(tensor\(float\)\), which cannot be served"):
            Engine(models.sequence(path), "m", "1")

    def test_warmup_shapes_name_the_key_that_is_wrong(self, path):
        models.sum_image(path)
        with pytest.raises(ModelError, match=r"model\.warmup_shapes\.picture: expected an input .* image"):
            Engine(path, "m", "1", {"picture": [2, 2, 3]})
        with pytest.raises(
            ModelError, match=r"model\.warmup_shapes\.image: expected \[any, any, 3\], found \[2, 2\]"
        ):
            Engine(path, "m", "1", {"image": [2, 2]})

    def test_of_several_warmup_shapes_it_names_the_one_that_is_wrong(self, path):
        models.sum_image(path)
        with pytest.raises(ModelError, match=r"model\.warmup_shapes\[1\]\.image: expected \[any, any, 3\]"):
            Engine(path, "m", "1", [{"image": [2, 2, 3]}, {"image": [2, 2]}])

    def test_a_model_that_needs_warmup_shapes_says_which(self, path):
        models.reshaped(path, shape=[0, 2, -1], declared=["N", 2, "U"])
        with pytest.raises(ModelError, match=r"set model\.warmup_shapes\.x to the size of one row"):
            Engine(path, "m", "1")
        assert Engine(path, "m", "1", {"x": [4]}).signature.batched


class TestBatchDimension:
    def test_fixed_first_dimension(self, path):
        assert not Engine(models.fixed(path), "m", "1").signature.batched

    @pytest.mark.parametrize("symbols", [("Q", "D"), ("N", "N"), ("unk__1", "unk__2")])
    def test_rows_compared_with_each_other(self, path, symbols):
        assert not Engine(models.similarity(path, symbols=symbols), "m", "1").signature.batched

    def test_outputs_may_be_named_otherwise(self, path):
        models.reshaped(path, shape=[0, -1], declared=["unk__2", "U"])
        assert Engine(path, "m", "1").signature.batched

    def test_declared_but_not_so(self, path):
        models.reshaped(path, shape=[1, -1], declared=["N", "U"])
        assert not Engine(path, "m", "1").signature.batched

    def test_without_one_a_batch_is_one_request(self, path):
        engine = Engine(models.fixed(path), "m", "1")
        assert [timing.rows for timing in engine.prepare(1, [1, 4])] == [1]
        executed = engine.run(1, [rows(3)])
        np.testing.assert_array_equal(executed.outputs[0]["y"], [[6, 6, 6, 6]])
        with pytest.raises(EngineError, match="no batch dimension"):
            engine.run(1, [rows(3), rows(4)])


class TestRun:
    def test_joins_and_splits_by_rows(self, path):
        engine = Engine(models.scale(path), "scale", "1")
        executed = engine.run(1, [rows(1), rows(2, 3), rows(4)])
        assert [outputs["y"][:, 0].tolist() for outputs in executed.outputs] == [[2], [4, 6], [8]]
        assert executed.wall_s > 0

    def test_strings_and_several_outputs(self, path):
        engine = Engine(models.two_inputs(path), "pair", "1")
        request = {"ids": np.array([[1, 2]]), "weights": np.array([[1, -1]], np.float32)}
        other = {"ids": np.array([[1, 2]]), "weights": np.array([[1, 1]], np.float32)}
        first, second = engine.run(1, [request, other]).outputs
        assert (first["score"].tolist(), first["sign"].tolist()) == ([-1], ["-"])
        assert (second["score"].tolist(), second["sign"].tolist()) == ([3], ["+"])

    def test_requests_of_one_batch_may_want_different_outputs(self, path):
        engine = Engine(models.two_inputs(path), "pair", "1")
        codec = Codec(engine.signature, max_rows=8)

        def asked(*outputs):
            request = pb.ModelInferRequest(
                inputs=[
                    {"name": "ids", "datatype": "INT64", "shape": [1, 2]},
                    {"name": "weights", "datatype": "FP32", "shape": [1, 2]},
                ],
                outputs=[{"name": name} for name in outputs],
                raw_input_contents=[np.int64([1, 2]).tobytes(), np.float32([1, -1]).tobytes()],
            )
            return codec.decode(parse(request.SerializeToString(), 1000))

        batch = [asked("score"), asked("sign"), asked("sign", "score"), asked()]
        assert len({each.shape_key for each in batch}) == 1
        executed = engine.run(1, [each.inputs for each in batch])
        told = [
            [output.name for output in pb.ModelInferResponse.FromString(codec.encode(outputs, each)).outputs]
            for outputs, each in zip(executed.outputs, batch, strict=True)
        ]
        assert told == [["score"], ["sign"], ["sign", "score"], ["score", "sign"]]

    def test_takes_read_only_views(self, path):
        engine = Engine(models.sum_image(path), "sum", "1")
        image = np.frombuffer(bytes(range(12)), np.uint8).reshape(1, 2, 2, 3)
        assert engine.run(1, [{"image": image}]).outputs[0]["total"].tolist() == [66]

    def test_errors_of_the_runtime_are_engine_errors(self, path):
        engine = Engine(models.two_inputs(path), "pair", "1")
        apart = {"ids": np.zeros((1, 2), np.int64), "weights": np.zeros((1, 3), np.float32)}
        with pytest.raises(EngineError, match="execution of 1 rows failed") as caught:
            engine.run(1, [apart])
        assert caught.value.__cause__ is not None
        assert engine.prepare(1, [1])  # and it goes on

    def test_outputs_that_do_not_count_rows(self, path):
        # Rows of 2 sizes pass for a batch when warmed up with rows of 1.
        models.reshaped(path, shape=[-1, 1], declared=["M", 1])
        engine = Engine(path, "m", "1")
        with pytest.raises(EngineError, match=r"output y has shape \(6, 1\) for 2 rows"):
            engine.run(1, [{"x": np.zeros((2, 3), np.float32)}])


class TestBfloat16:
    """Elements are the bits: 1 is 0x3f80, 2 is 0x4000, −3 is 0xc040."""

    def test_joins_and_splits_by_rows(self, path):
        engine = Engine(models.bfloat16(path), "m", "1")
        assert [(spec.name, spec.datatype) for spec in engine.signature.inputs] == [
            ("x", "BF16"),
            ("w", "FP32"),
        ]
        assert engine.signature.batched
        one = {"x": np.uint16([[0x3F80, 0x4000]]), "w": np.float32([[1, 1]])}
        two = {"x": np.uint16([[0xC040, 0], [0x3F80, 0x3F80]]), "w": np.float32([[1, 1], [2, -3]])}
        first, second = engine.run(1, [one, two]).outputs
        assert (first["y"].dtype, first["y"].tolist()) == (np.uint16, [[0x3F80, 0x4000]])
        assert second["y"].tolist() == [[0xC040, 0], [0x4000, 0xC040]]
        assert (first["total"].tolist(), second["total"].tolist()) == ([3], [-3, -1])

    def test_takes_views(self, path):
        engine = Engine(models.bfloat16(path), "m", "1")
        read_only = np.frombuffer(b"\x80\x3f\x00\x40", "<u2").reshape(1, 2)
        strided = np.uint16([[0x3F80, 0], [0x4000, 0]])[:, 0].reshape(1, 2)
        for x in (read_only, strided):
            outputs = engine.run(1, [{"x": x, "w": np.float32([[1, 1]])}]).outputs[0]
            assert outputs["y"].tolist() == [[0x3F80, 0x4000]]

    def test_outputs_outlive_later_executions(self, path):
        engine = Engine(models.bfloat16(path), "m", "1")
        w = np.ones((1, 1000), np.float32)
        kept = [
            engine.run(1, [{"x": np.full((1, 1000), value, np.uint16), "w": w}]).outputs[0]
            for value in range(0x3F00, 0x4000)
        ]
        for value, outputs in zip(range(0x3F00, 0x4000), kept, strict=True):
            assert (outputs["y"] == value).all()
            assert (outputs["total"] == outputs["total"][0]).all()

    def test_is_warmed_like_any_other(self, path):
        engine = Engine(models.bfloat16(path), "m", "1", {"x": [4], "w": [4]})
        assert [timing.rows for timing in engine.prepare(2, [1, 8])] == [1, 8]

    def test_errors_of_the_runtime_are_engine_errors(self, path):
        engine = Engine(models.bfloat16(path), "m", "1")
        apart = {"x": np.zeros((1, 2), np.uint16), "w": np.zeros((1, 3), np.float32)}
        with pytest.raises(EngineError, match="execution of 1 rows failed"):
            engine.run(1, [apart])

    def test_beside_strings_it_is_refused(self, path):
        models.echoes(path, {"x": TensorProto.BFLOAT16, "s": TensorProto.STRING})
        with pytest.raises(
            ModelError, match=r"tensor\(string\) among the inputs of a model with tensor\(bfloat16\)"
        ):
            Engine(path, "m", "1")


class TestRungs:
    def test_prepare_times_each_size_once(self, path):
        engine = Engine(models.slow(path, 4), "slow", "1")
        assert not engine.has(2)
        timings = engine.prepare(2, [4, 1, 4])
        assert engine.has(2)
        assert [(timing.rows, timing.threads) for timing in timings] == [(1, 2), (4, 2)]
        assert engine.prepare(2, [1, 4]) == timings

    def test_prepare_times_each_size_in_each_shape(self, path):
        engine = Engine(models.two_inputs(path), "pair", "1", [_sizes(8), _sizes(32)])
        timings = engine.prepare(1, [2, 1])
        assert [(timing.rows, timing.elements) for timing in timings] == [(1, 16), (1, 64), (2, 16), (2, 64)]
        assert engine.prepare(1, [1, 2]) == timings

    def test_memory_of_each_is_told(self, path):
        """In a process of its own: one that has run other tests grows by less, as it uses again what they freed."""
        command = [sys.executable, "-c", TELL, models.weighty(path, mib=32)]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()
        told, later = (json.loads(line) for line in lines)
        assert told.keys() == {"1", "2"}
        assert all(16 << 20 < taken < 256 << 20 for taken in told.values())
        assert later.keys() == {"2", "3"}

    def test_the_least_recently_used_goes(self, path):
        engine = Engine(models.scale(path), "scale", "1", max_rungs=2)
        engine.prepare(2, [1])
        engine.run(1, [rows(1)])
        engine.prepare(3, [1])
        assert [engine.has(threads) for threads in (1, 2, 3)] == [True, False, True]

    def test_run_brings_a_dropped_one_back(self, path):
        engine = Engine(models.scale(path), "scale", "1", max_rungs=1)
        engine.prepare(2, [1])
        assert not engine.has(1)
        assert engine.run(1, [rows(1)]).outputs[0]["y"][0, 0] == 2
        assert engine.has(1)

    def test_one_in_use_stays_until_released(self, path):
        engine = Engine(models.scale(path), "scale", "1", max_rungs=1)
        rung = engine._hold(1)
        engine.prepare(2, [1])
        assert engine.has(1)
        engine._release(rung)
        assert engine.has(1) != engine.has(2)

    def test_a_changed_file_is_not_mixed_in(self, path):
        engine = Engine(models.scale(path), "scale", "1")
        models.slow(path, 1)
        with pytest.raises(EngineError, match="has changed since it was loaded"):
            engine.prepare(2, [1])
        assert engine.run(1, [rows(1)]).outputs[0]["y"][0, 0] == 2

    def test_with_a_copy_it_does_not_matter_what_becomes_of_the_file(self, path):
        engine = Engine(models.scale(path), "scale", "1", keep_copy=True)
        digest = engine.digest
        models.scale(path, factor=7)
        engine.prepare(2, [1])
        path.unlink()
        engine.prepare(3, [1])
        for threads in (1, 2, 3):
            assert engine.run(threads, [rows(1)]).outputs[0]["y"][0, 0] == 2
        assert engine.digest == digest
        engine.close()

    def test_a_copy_finds_weights_in_files_of_their_own(self, path):
        models.with_external_weights(path, factor=3)
        engine = Engine(path, "scale", "1", keep_copy=True)
        path.unlink()
        engine.prepare(2, [1])
        assert engine.run(2, [rows(1)]).outputs[0]["y"].tolist() == [[3, 3, 3, 3]]
        engine.close()

    def test_closed_it_finishes_what_runs(self, path):
        engine = Engine(models.scale(path), "scale", "1", keep_copy=True)
        rung = engine._hold(1)
        engine.close()
        assert not engine.has(1)
        outputs, _, _ = engine._execute(rung.session, rows(1), 1)
        engine._release(rung)
        assert outputs["y"][0, 0] == 2

    def test_executions_go_on_while_another_rung_is_prepared(self, path):
        engine = Engine(models.slow(path, 8), "slow", "1", max_rungs=1)
        prepared = threading.Event()

        def serve(threads, value):
            x = np.full((2, 256), value, np.float32)
            done = 0
            while not prepared.is_set() or done < 5:
                outputs = engine.run(threads, [{"x": x}, {"x": -x}]).outputs
                np.testing.assert_array_equal(outputs[0]["y"], x)
                np.testing.assert_array_equal(outputs[1]["y"], -x)
                done += 1
            return done

        with ThreadPoolExecutor(2) as pool:
            served = [pool.submit(serve, 1, 1.0), pool.submit(serve, 2, 2.0)]
            try:
                engine.prepare(3, [1, 2])
            finally:
                prepared.set()
            assert all(future.result() >= 5 for future in served)
        assert sum(engine.has(threads) for threads in (1, 2, 3)) == 1
        assert not any(rung.in_use for rung in engine._rungs.values())
