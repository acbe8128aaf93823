"""Build hook: generates the protobuf and gRPC code beside protos/*.proto."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProtobufBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs protoc from the repository root, so that the generated imports need no fix-up."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        from grpc_tools import protoc

        root = Path(self.root)
        sources = sorted(str(path.relative_to(root)) for path in root.glob("protos/*.proto"))
        arguments = [
            "protoc",
            f"-I{root}",
            f"-I{files('grpc_tools') / '_proto'}",
            f"--python_out={root}",
            f"--grpc_python_out={root}",
            f"--mypy_out={root}",
            f"--mypy_grpc_out={root}",
            *sources,
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc failed on {', '.join(sources)}")
        build_data["artifacts"] += ["protos/*_pb2*.py", "protos/*_pb2*.pyi"]
