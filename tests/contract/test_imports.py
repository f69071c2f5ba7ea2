"""Dependencies point one way; the folders mean what they say."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

_HEAVY = ("torch", "transformers", "tokenizers", "visionsplit")
_SERVICES = ("encoder_service", "llm_service", "visionsplit_client")
# What works on rows in this process; the rest of a batch job needs the client and pyarrow only.
_WORKING = (
    "encoder_service",
    "llm_service",
    "training",
    "torch",
    "transformers",
    "ray",
    "visionsplit_batch.runners.ray_data",
)
_LEARNING = ("training.model", "training.learning", "training.evaluation")

# folder -> module prefixes it must not import
FORBIDDEN = {
    "proto/visionsplit": ["encoder_service", "llm_service", "visionsplit_client", "training"],
    "proto/visionsplit/wire": ["torch", "transformers", "ray"],
    "proto/visionsplit/telemetry": ["torch", "transformers", "ray", "visionsplit.v1"],
    "proto/visionsplit/telemetry/tracing.py": ["grpc"],
    "proto/visionsplit/images": ["visionsplit.wire", "visionsplit.v1", "torch", "transformers", "grpc", "ray"],
    "proto/visionsplit/grid.py": ["visionsplit.wire", "visionsplit.v1", "torch", "numpy", "grpc"],
    "proto/visionsplit/fairness.py": ["visionsplit.wire", "visionsplit.v1", "torch", "numpy", "grpc"],
    "proto/visionsplit/overload.py": ["visionsplit.wire", "visionsplit.v1", "torch", "numpy", "grpc"],
    "proto/visionsplit/tasks.py": ["visionsplit.wire", "visionsplit.v1", "torch", "numpy", "grpc"],
    "proto/visionsplit/errors.py": ["visionsplit.wire", "visionsplit.v1", "torch", "numpy", "grpc"],
    "proto/visionsplit/checkpoint.py": ["visionsplit.wire", "visionsplit.v1", "grpc", "ray"],
    "proto/visionsplit/stored_model.py": [
        "visionsplit.checkpoint",
        "visionsplit.wire",
        "visionsplit.v1",
        "grpc",
        "ray",
    ],
    "encoder_service": ["llm_service", "visionsplit_client", "training", "ray"],
    "llm_service": ["encoder_service", "visionsplit_client", "training"],
    "client/visionsplit_client": ["encoder_service", "llm_service", "training", "torch", "transformers", "ray"],
    "client/visionsplit_batch/sources": [*_WORKING, "visionsplit_batch.job", "visionsplit_batch.assembly"],
    "client/visionsplit_batch/sinks": [*_WORKING, "visionsplit_batch.job", "visionsplit_batch.assembly"],
    **{
        f"client/visionsplit_batch/{module}.py": [*_WORKING, "visionsplit_batch.cli"]
        for module in ("rows", "parts", "records", "run_folder", "assembly", "job", "settings", "progress")
    },
    "encoder_service/compression": [
        "visionsplit.wire",
        "visionsplit.v1",
        "visionsplit.checkpoint",
        "visionsplit.stored_model",
        "transformers",
        "grpc",
        "PIL",
    ],
    "encoder_service/vision_tower.py": ["grpc", "ray", "visionsplit.v1"],
    "encoder_service/text_tower.py": ["grpc", "ray", "visionsplit.v1"],
    "llm_service/engines": ["grpc", "ray", "visionsplit.v1"],
    "llm_service/pruning": ["llm_service.engines", "visionsplit.wire", "visionsplit.v1", "transformers", "grpc", "ray"],
    "training/scenes": [*_HEAVY, *_SERVICES, "training.dialogue", "training.data", *_LEARNING],
    "training/dialogue": [*_HEAVY, *_SERVICES, "training.data", *_LEARNING],
    "training/data": [*_SERVICES, "training.learning", "training.evaluation"],
    "training/model": [*_SERVICES, "training.data", "training.learning", "training.evaluation"],
    "training/learning": [*_SERVICES, "training.evaluation"],
}
# Only these may see grpc or the generated messages.
GRPC_MODULES = {
    "encoder_service": {
        "service.py",
        "server.py",
        "llm_client.py",
        "llm_channel.py",
        "relay.py",
        "request.py",
        "upload.py",
        "protocol.py",
        "info.py",
    },
    "llm_service": {
        "gateway.py",
        "call_clock.py",
        "server.py",
        "upload.py",
        "prefill.py",
        "sampling.py",
        "conversation.py",
    },
}


def imported_modules(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(place: str) -> list[Path]:
    path = ROOT / place
    files = [path] if path.suffix else sorted(path.rglob("*.py"))
    assert files, f"{place} holds no source"
    return [file for file in files if "_pb2" not in file.name]


@pytest.mark.parametrize("place", list(FORBIDDEN))
def test_a_folder_imports_only_what_lies_below_it(place: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in sources(place)
        for module in imported_modules(file)
        if any(module == prefix or module.startswith(prefix + ".") for prefix in FORBIDDEN[place])
    ]
    assert not wrong


@pytest.mark.parametrize("place", list(GRPC_MODULES))
def test_only_the_edge_of_a_service_sees_grpc(place: str) -> None:
    seeing = {
        str(file.relative_to(ROOT / place))
        for file in sources(place)
        for module in imported_modules(file)
        if module.split(".")[0] in ("grpc", "grpc_health", "grpc_reflection") or "visionsplit.v1" in module
    }
    assert seeing <= GRPC_MODULES[place]


def test_proto_is_an_import_root_and_no_package() -> None:
    assert not (ROOT / "proto" / "__init__.py").exists()
