"""Configuration is strict: every mistake is one line that names file, key and expectation."""

from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta, field

import controlplane.config
import controlplane.controlfile
import dataplane.config
from core.config import ConfigError, Section, load

DEPLOY = Path(__file__).parents[1] / "deploy"


class Inner(Section):
    """A section with a bound."""

    size: Annotated[int, Meta(ge=1)] = 4
    shapes: dict[str, list[int]] = field(default_factory=dict)


class Outer(Section):
    """A file with one required key."""

    name: str
    inner: Inner = field(default_factory=Inner)


def read(tmp_path: Path, text: str) -> Outer:
    """Load `text` as if it were a user's file."""
    path = tmp_path / "some.toml"
    path.write_text(text)
    return load(path, Outer)


def test_keys_left_out_have_their_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, 'name = "a"') == Outer(name="a", inner=Inner(size=4, shapes={}))


def test_keys_given_replace_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, 'name = "a"\n[inner]\nsize = 7\nshapes = { image = [224, 224, 3] }')
    assert config.inner == Inner(size=7, shapes={"image": [224, 224, 3]})


@pytest.mark.parametrize(
    ("text", "key", "expectation"),
    [
        pytest.param('name = "a"\nnmae = "b"', "some.toml", "`nmae`", id="unknown key"),
        pytest.param('name = "a"\n[inner]\nsiez = 1', "inner", "`siez`", id="unknown key in a section"),
        pytest.param("name = 3", "name", "Expected `str`, got `int`", id="wrong type"),
        pytest.param('name = "a"\n[inner]\nsize = "4"', "inner.size", "Expected `int`", id="no coercion"),
        pytest.param('name = "a"\n[inner]\nsize = 0', "inner.size", ">= 1", id="out of range"),
        pytest.param('name = "a"\ninner = 1', "inner", "Expected `object`", id="value for a section"),
        pytest.param("", "some.toml", "required field `name`", id="required key left out"),
        pytest.param("name = ", "some.toml", "not valid TOML", id="not TOML"),
    ],
)
def test_a_mistake_is_one_line_with_file_key_and_expectation(
    tmp_path: Path, text: str, key: str, expectation: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'some.toml'}: ")
    assert key in message
    assert expectation in message
    assert "\n" not in message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match=r"some\.toml: not valid TOML"):
        load(path, Outer)


def test_a_missing_file_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "absent.toml", Outer)


def test_a_directory_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, Outer)


@pytest.mark.parametrize(("name", "slo_ms"), [("vision", 1000), ("magika", 150)])
def test_the_deployed_workers_are_configured(name: str, slo_ms: float) -> None:
    config = dataplane.config.read(
        DEPLOY / f"{name}.toml", environ={"SPONGE_CONTROL_ADDRESS": "control:8500"}
    )
    assert (config.model.path, config.service.name) == (f"/models/{name}.onnx", name)
    assert (config.service.slo_ms, config.control.address) == (slo_ms, "control:8500")


def worker_config(tmp_path: Path, model: str) -> dataplane.config.Config:
    """Read a worker.toml with this section about its model."""
    path = tmp_path / "worker.toml"
    path.write_text(f"[model]\n{model}\n[service]\nslo_ms = 100")
    return dataplane.config.read(path, environ={})


@pytest.mark.parametrize("address", [",", "control-a:8500,", "control-a:8500, ,control-b:8500"])
def test_an_empty_address_of_a_control_plane(tmp_path: Path, address: str) -> None:
    (tmp_path / "worker.toml").write_text('[model]\npath = "m.onnx"\n[service]\nslo_ms = 100')
    with pytest.raises(ConfigError, match=r"worker\.toml: control\.address: expected host:port"):
        dataplane.config.read(tmp_path / "worker.toml", environ={"SPONGE_CONTROL_ADDRESS": address})


@pytest.mark.parametrize("section", ["model", "service"])
def test_a_name_that_no_control_plane_would_take(tmp_path: Path, section: str) -> None:
    name = {each: f'name = "{"n" * (257 if each == section else 256)}"' for each in ("model", "service")}
    path = tmp_path / "worker.toml"
    path.write_text(
        f'[model]\npath = "m.onnx"\n{name["model"]}\n[service]\nslo_ms = 100\n{name["service"]}\n'
    )
    with pytest.raises(ConfigError, match=rf"worker\.toml: {section}\.name: Expected `str` of length <= 256"):
        dataplane.config.read(path, environ={})


def test_a_model_file_is_one_version_and_lends_its_name(tmp_path: Path) -> None:
    """Its own, and not that of what a link leads to: that may become another."""
    (tmp_path / "some.onnx").touch()
    (tmp_path / "link.onnx").symlink_to("some.onnx")
    model = worker_config(tmp_path, 'path = "link.onnx"').model
    assert (model.path, model.name, model.version) == (str(tmp_path / "link.onnx"), "link", "1")
    assert worker_config(tmp_path, 'path = "some.onnx"\nversion = "b"').model.version == "b"


def test_a_directory_of_versions_lends_its_name_and_names_them(tmp_path: Path) -> None:
    (tmp_path / "vision.v2").mkdir()
    assert worker_config(tmp_path, 'path = "vision.v2"').model.name == "vision.v2"
    with pytest.raises(ConfigError, match=r"model\.version: expected none beside a directory of versions"):
        worker_config(tmp_path, 'path = "vision.v2"\nversion = "3"')


def test_the_deployed_control_plane_is_configured() -> None:
    # As Compose 1.29 leaves it.
    config = controlplane.controlfile.read(DEPLOY / "control.toml", environ={"SPONGE_COMPOSE_PROJECT": ""})
    assert config.actuator.kind is controlplane.config.ActuatorKind.DOCKER
    assert config.actuator.compose_project == ""


@pytest.mark.parametrize(
    ("toml", "expectation"),
    [
        ('namespace = "Serving"', r"actuator\.kubernetes\.namespace: Expected `str` matching"),
        (
            'label_selector = "sponge.worker"',
            r"actuator\.kubernetes\.label_selector: Expected `str` matching",
        ),
        ('container = ""', r"actuator\.kubernetes\.container: Expected `str` matching"),
        ("max_millicores = 0", r"actuator\.kubernetes\.max_millicores: Expected `int` >= 1"),
        ('conteiner = "worker"', r"actuator\.kubernetes: .*`conteiner`"),
        ('kubeconfig = "config"', r"actuator\.kubernetes\.namespace: expected one beside kubeconfig"),
        ("max_memory_mib = 0", r"actuator\.kubernetes\.max_memory_mib: expected at least 1 with"),
    ],
)
def test_what_the_kubernetes_actuator_cannot_use_is_refused(
    tmp_path: Path, toml: str, expectation: str
) -> None:
    path = tmp_path / "control.toml"
    path.write_text(f'[actuator]\nkind = "kubernetes"\nresize_memory = true\n[actuator.kubernetes]\n{toml}\n')
    with pytest.raises(ConfigError, match=expectation):
        controlplane.controlfile.read(path, environ={})


@pytest.mark.parametrize(
    ("toml", "expectation"),
    [
        ('kind = "local"\ncgroup_write = true', r'actuator\.cgroup_write: expected false with .* "local"'),
        (
            'kind = "threads"\n[services.a]\n[services.b]\nwhole_cores = true',
            r'services\.b\.whole_cores: expected false with actuator\.kind = "threads"',
        ),
        (
            'whole_cores_cpus = "2-"',
            r"actuator\.whole_cores_cpus: expected CPU numbers as in 0-2,5, got '2-'",
        ),
    ],
)
def test_what_only_the_docker_actuator_can_is_refused_elsewhere(
    tmp_path: Path, toml: str, expectation: str
) -> None:
    path = tmp_path / "control.toml"
    path.write_text(f"[actuator]\n{toml}\n")
    with pytest.raises(ConfigError, match=rf"control\.toml: {expectation}"):
        controlplane.controlfile.read(path, environ={})


ENGINE = 'host = "tcp://far:2376"\nmillicores = 4000\n'


@pytest.mark.parametrize(
    ("toml", "expectation"),
    [
        ("[actuator.engines.a]\nmillicores = 4000", r"actuator\.engines.*missing required field `host`"),
        ('[actuator.engines.a]\nhost = "tcp://far:2376"', "missing required field `millicores`"),
        ('[actuator.engines.a]\nhost = "far:2376"\nmillicores = 4000', "Expected `str` matching"),
        ('[actuator.engines.a]\nhost = "ssh://far"\nmillicores = 4000', "Expected `str` matching"),
        (f"[actuator.engines.a_b]\n{ENGINE}", "Expected `str` matching"),
        (f'[actuator]\nkind = "local"\n[actuator.engines.a]\n{ENGINE}', r"engines: expected none unless"),
        (f"[host]\nmillicores = 1\n[actuator.engines.a]\n{ENGINE}", "host: expected nothing beside"),
        (
            '[actuator.engines.a]\nhost = "unix:///d.sock"\nmillicores = 1\ntls = { ca = "x" }',
            r"actuator\.engines\.a\.tls: expected none of a local socket",
        ),
        (
            f"[actuator]\nresize_memory = true\n[actuator.engines.a]\n{ENGINE}",
            r"actuator\.engines\.a\.memory_mib: expected at least 1",
        ),
        (
            f"[services.s]\nwhole_cores = true\n[actuator.engines.a]\n{ENGINE}",
            r"actuator\.whole_cores_cpus: expected CPU numbers beside services\.s\.whole_cores, as those of engine a",
        ),
    ],
)
def test_engines_that_cannot_be_used_are_refused(tmp_path: Path, toml: str, expectation: str) -> None:
    path = tmp_path / "control.toml"
    path.write_text(toml)
    with pytest.raises(ConfigError, match=expectation):
        controlplane.controlfile.read(path, environ={"SPONGE_COMPOSE_PROJECT": "ours"})


@pytest.mark.parametrize(
    "engine", ['host = "unix:///d.sock"\nmillicores = 1', f'{ENGINE}[actuator]\nwhole_cores_cpus = "2-3"']
)
def test_whole_cores_are_those_of_this_host_or_as_configured(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "control.toml"
    path.write_text(f"[services.s]\nwhole_cores = true\n[actuator.engines.a]\n{engine}\n")
    config = controlplane.controlfile.read(path, environ={"SPONGE_COMPOSE_PROJECT": "ours"})
    assert config.services["s"].whole_cores


def test_engines_have_their_files_beside_the_configuration_and_a_project(tmp_path: Path) -> None:
    path = tmp_path / "control.toml"
    path.write_text(f'[actuator.engines.far]\n{ENGINE}tls = {{ ca = "ca.pem" }}')
    engine = controlplane.controlfile.read(path, environ={"SPONGE_COMPOSE_PROJECT": "ours"}).actuator.engines[
        "far"
    ]
    assert engine.tls is not None
    assert (engine.tls.ca, engine.tls.certificate) == (str(tmp_path / "ca.pem"), "")
    with pytest.raises(
        ConfigError, match=r"actuator\.compose_project: expected one beside actuator\.engines"
    ):
        controlplane.controlfile.read(path, environ={})


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        (
            "min_millicores = 900\nmax_millicores = 800",
            r"services\.s\.min_millicores: expected at most max_millicores = 800",
        ),
        (
            "whole_cores = true\nmax_millicores = 999",
            r"services\.s\.max_millicores: expected at least 1000 with whole_cores",
        ),
    ],
)
def test_services_that_cannot_be_are_refused(tmp_path: Path, toml: str, complaint: str) -> None:
    path = tmp_path / "control.toml"
    path.write_text(f"[services.s]\n{toml}\n")
    with pytest.raises(ConfigError, match=rf"control\.toml: {complaint}"):
        controlplane.controlfile.read(path, environ={})


def test_one_whole_core_may_be_all(tmp_path: Path) -> None:
    path = tmp_path / "control.toml"
    path.write_text("[services.s]\nwhole_cores = true\nmax_millicores = 1000\n")
    assert controlplane.controlfile.read(path, environ={}).services["s"].whole_cores


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ('[leader]\nlease = "Control"', r"leader\.lease: Expected `str` matching"),
        ('[leader]\nlease = "a"\nlease_s = 1', r"leader\.lease_s: Expected `int` >= 2"),
        ('[leader]\nlease = "a"\nlock = "b"', r"leader\.lease: expected none beside leader\.lock"),
        (
            "[services.s]\nmax_replicas = 2",
            r"services\.s\.scale: expected deployment/NAME or statefulset/NAME",
        ),
        ('[services.s]\nscale = "pod/s"', r"services\[\.\.\.\]\.scale: Expected `str` matching"),
        ("[services.s]\nmax_replicas = -1", r"services\[\.\.\.\]\.max_replicas: Expected `int` >= 0"),
        (
            '[services.s]\nscale = "deployment/s"\nmin_replicas = 3\nmax_replicas = 2',
            r"services\.s\.min_replicas: expected at most max_replicas = 2",
        ),
        ("[replicas]\nmiss_share = 0.0", r"replicas\.miss_share: Expected `float` > 0"),
        ("[replicas]\nshrink_margin = 0.5", r"replicas\.shrink_margin: Expected `float` >= 1"),
    ],
)
def test_leases_and_replicas_that_cannot_be_are_refused(tmp_path: Path, toml: str, complaint: str) -> None:
    path = tmp_path / "control.toml"
    path.write_text(f'[actuator]\nkind = "kubernetes"\n{toml}\n')
    with pytest.raises(ConfigError, match=complaint):
        controlplane.controlfile.read(path, environ={})


@pytest.mark.parametrize(
    ("memory", "complaint"),
    [
        ("max_memory_mib = 63", r"services\[\.\.\.\]\.max_memory_mib: Expected `int` >= 64"),
        ("max_memory_mib = 1.5", r"services\[\.\.\.\]\.max_memory_mib: Expected `int"),
        ("max_memory_mib = 64", r"services\.s\.max_memory_mib: expected actuator\.resize_memory = true"),
    ],
)
def test_a_ceiling_of_memory_is_a_step_at_least_and_takes_limits(
    tmp_path: Path, memory: str, complaint: str
) -> None:
    path = tmp_path / "control.toml"
    path.write_text(f"[services.s]\n{memory}\n")
    with pytest.raises(ConfigError, match=complaint):
        controlplane.controlfile.read(path, environ={})
    path.write_text("[actuator]\nresize_memory = true\n[services.s]\nmax_memory_mib = 64\n")
    assert controlplane.controlfile.read(path, environ={}).services["s"].max_memory_mib == 64


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ('[leader]\nlease = "a"', "leader.lease"),
        ("[services.s]\nmax_replicas = 2", "services.s.max_replicas"),
    ],
)
def test_what_only_kubernetes_has_needs_its_actuator(tmp_path: Path, toml: str, key: str) -> None:
    path = tmp_path / "control.toml"
    path.write_text(toml)
    with pytest.raises(ConfigError) as error:
        controlplane.controlfile.read(path, environ={})
    assert str(error.value) == f'{path}: {key}: expected actuator.kind = "kubernetes" beside it'


def test_a_kubeconfig_is_found_beside_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "control.toml"
    path.write_text('[actuator.kubernetes]\nnamespace = "serving"\nkubeconfig = "config"\n')
    kubernetes = controlplane.controlfile.read(path, environ={}).actuator.kubernetes
    assert kubernetes.kubeconfig == str(tmp_path / "config")


@pytest.mark.parametrize(
    ("toml", "shapes"),
    [
        ("{ ids = [8] }", {"ids": [8]}),
        ("[{ ids = [8] }, { ids = [32] }]", [{"ids": [8]}, {"ids": [32]}]),
    ],
)
def test_warmup_shapes_are_a_table_or_a_list_of_them(tmp_path: Path, toml: str, shapes: object) -> None:
    path = tmp_path / "worker.toml"
    path.write_text(f'[model]\npath = "m.onnx"\nwarmup_shapes = {toml}\n[service]\nslo_ms = 100\n')
    assert dataplane.config.read(path, environ={}).model.warmup_shapes == shapes
