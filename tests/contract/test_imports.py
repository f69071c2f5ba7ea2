"""Dependencies point one way; the folders mean what they say."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

_PLACE = {
    "visionsplit": "proto/visionsplit",
    "visionsplit_client": "client/visionsplit_client",
    "visionsplit_batch": "client/visionsplit_batch",
    "visionsplit_cli": "client/visionsplit_cli",
    "visionsplit_local": "client/visionsplit_local",
    "encoder_service": "encoder_service",
    "llm_service": "llm_service",
    "visionsplit_ray": "visionsplit_ray",
}
# Each package's folders and modules from the top down: each imports only what stands below it.
ORDER = {
    "encoder_service": """
        __main__ server
        api metrics llm pipeline
        caching device compression config
    """,
    "llm_service": """
        __main__ server
        gateway backends replica engines
        generation_settings prompts job pruning config
    """,
    "visionsplit_client": """
        _async_client _client
        _async_connections _connections _async_calls _collectors _requests
        _calls _base _retry _encoded _images
        _sources _info _errors _prompts _results _settings _tracing _transport
    """,
    "visionsplit_cli": """
        __main__ batch plan caption ask encode visualize info health top
        local_services image_arguments hints parser report
        conditions options checkout output signals
    """,
    "visionsplit_ray": """
        __main__ server encoder_pool encoder_actor gpus scaling
    """,
    "visionsplit_batch": """
        steps job sources sinks runners rows storage formats errors
    """,
    "visionsplit": """
        families server telemetry receiving serving model command_line security
        wire images options network v1 grid errors visible
    """,
}
# What is in the user's process altogether: only tests, benchmarks and training may use it.
_LOCAL = "visionsplit_local"
_PACKAGES = (
    *("visionsplit_client", "visionsplit_batch", "visionsplit_cli", "encoder_service", "llm_service", _LOCAL),
    *("training", "visionsplit_ray"),
)
_HEAVY = ("torch", "transformers", "tokenizers", "ray")
_PROTOCOL = ("visionsplit.wire", "visionsplit.v1", "visionsplit.options.messages", "grpc")
# What works on rows in this process; the rest of a batch job needs the client and pyarrow only.
_WORKING = ("encoder_service", "llm_service", "visionsplit_ray", *_HEAVY, "visionsplit_batch.runners.ray_runner")
# What is of one family of models is no other module's business, except for the tools that train and measure one.
_FAMILIES = tuple(
    f"visionsplit.families.{folder.name}"
    for folder in sorted((ROOT / "proto" / "visionsplit" / "families").iterdir())
    if (folder / "family.py").exists()
)
_LEARNING = ("training.model", "training.learning", "training.evaluation")

# folder or file -> module prefixes it must not import
FORBIDDEN = {
    "proto/visionsplit": _PACKAGES,
    **{
        f"proto/visionsplit/{folder}": _HEAVY
        for folder in (
            *("wire", "network", "options", "images", "security", "receiving", "serving", "telemetry", "command_line"),
            *("server", "grid.py", "errors.py", "visible.py"),
        )
    },
    "proto/visionsplit/images/": _PROTOCOL,
    "proto/visionsplit/options/": ("visionsplit.wire", "grpc", "numpy"),
    # Of the options only `messages.py` sees the protocol: what merely works with options needs no protobuf.
    **{
        f"proto/visionsplit/options/{name}.py": (*_PROTOCOL, "google")
        for name in ("compression", "conditions", "data_types", "layout", "parameters", "prefill", "sampling")
    },
    "proto/visionsplit/model": (*_PROTOCOL, "ray"),
    "proto/visionsplit/model/names.py": _HEAVY,
    "proto/visionsplit/telemetry/tracing.py": ("grpc",),
    **{f"proto/visionsplit/{name}.py/": (*_PROTOCOL, "numpy") for name in ("grid", "errors", "visible")},
    **{f"proto/visionsplit/serving/{name}.py": (*_PROTOCOL, "numpy") for name in ("fairness", "overload")},
    "encoder_service": (
        *("llm_service", "visionsplit_client", "visionsplit_batch", "visionsplit_cli", _LOCAL, "training"),
        *("visionsplit_ray", "ray"),
    ),
    "llm_service": (
        "encoder_service",
        "visionsplit_client",
        "visionsplit_batch",
        "visionsplit_cli",
        _LOCAL,
        "training",
        "visionsplit_ray",
    ),
    "visionsplit_ray": ("visionsplit_client", "visionsplit_batch", "visionsplit_cli", _LOCAL, "training"),
    "client/visionsplit_client": (
        *("encoder_service", "llm_service", "visionsplit_batch", "visionsplit_cli", _LOCAL, "training"),
        "visionsplit_ray",
        *_HEAVY,
        "visionsplit.model",
    ),
    "client/visionsplit_batch": ("visionsplit_cli", _LOCAL, "training"),
    "client/visionsplit_cli": (
        *(_LOCAL, "visionsplit_ray", "training", *_HEAVY),
        *("visionsplit.families.checkpoint", "visionsplit.model.stored_model"),
    ),
    "client/visionsplit_local": ("visionsplit_batch", "visionsplit_cli", "training", *_HEAVY),
    **{
        f"client/visionsplit_batch/{folder}": _WORKING
        for folder in ("job", "steps", "sinks", "sources", "rows", "storage")
    },
    **{
        f"client/visionsplit_batch/runners/{module}.py": _WORKING
        for module in ("base", "row", "row_calls", "services", "services_identity", "ray_reader")
    },
    "encoder_service/compression": (
        *_PROTOCOL,
        "google",
        "visionsplit.model",
        "transformers",
        "PIL",
    ),
    "llm_service/pruning": (*_PROTOCOL, "transformers"),
    "training/scenes": (*_HEAVY, *_PACKAGES[:6], "visionsplit", "training.dialogue", "training.data", *_LEARNING),
    "training/dialogue": (*_HEAVY, *_PACKAGES[:6], "visionsplit", "training.data", *_LEARNING),
    "training/data": (*_PACKAGES[:6], "training.learning", "training.evaluation"),
    "training/model": (*_PACKAGES[:6], "training.data", "training.learning", "training.evaluation"),
    "training/learning": (*_PACKAGES[:6], "training.evaluation"),
}
# Only these may see grpc or the generated messages.
SEEING_GRPC = {
    "encoder_service": {"server", "api", "llm"},
    "llm_service": {"server", "gateway"},
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


def room_of(package: str, file: Path) -> str:
    """The folder or the module of a package that a file belongs to."""
    return file.relative_to(ROOT / _PLACE[package]).parts[0].removesuffix(".py")


@pytest.mark.parametrize("package", list(ORDER))
def test_a_folder_imports_only_folders_below_it(package: str) -> None:
    order = ORDER[package].split()
    files = [file for file in sources(_PLACE[package]) if room_of(package, file) != "__init__"]
    assert {room_of(package, file) for file in files} == set(order)
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files
        for module in imported_modules(file)
        if module.startswith(f"{package}.")
        and (room := module.split(".")[1]) in order
        and order.index(room) < order.index(room_of(package, file))
    ]
    assert not wrong


@pytest.mark.parametrize("place", list(FORBIDDEN))
def test_a_folder_does_not_import(place: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in sources(place.rstrip("/"))
        for module in imported_modules(file)
        if any(module == prefix or module.startswith(prefix + ".") for prefix in FORBIDDEN[place])
    ]
    assert not wrong


@pytest.mark.parametrize("package", list(SEEING_GRPC))
def test_only_the_edge_of_a_service_sees_grpc(package: str) -> None:
    seeing = {
        room_of(package, file)
        for file in sources(_PLACE[package])
        for module in imported_modules(file)
        if module.split(".")[0] in ("grpc", "grpc_health", "grpc_reflection") or "visionsplit.v1" in module
    }
    assert seeing <= SEEING_GRPC[package]


@pytest.mark.parametrize("package", [*_PLACE, "training"])
def test_no_package_imports_private_names_of_another(package: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in sources(_PLACE.get(package, package))
        for module in imported_modules(file)
        if module.partition(".")[0] in {*_PLACE} - {package}
        and any(part.startswith("_") and not part.startswith("__") for part in module.split("."))
    ]
    assert not wrong


def test_proto_is_an_import_root_and_no_package() -> None:
    assert not (ROOT / "proto" / "__init__.py").exists()


def test_no_other_module_knows_a_family() -> None:
    places = ("client", "encoder_service", "llm_service", "visionsplit_ray", "proto/visionsplit")
    assert _FAMILIES
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for place in places
        for file in sources(place)
        if "families" not in file.parts
        for module in imported_modules(file)
        if module.startswith(_FAMILIES)
    ]
    assert not wrong


def test_what_the_client_needs_of_families_needs_no_pytorch() -> None:
    names = ", ".join(["visionsplit.families", "visionsplit.families.token_order"])
    command = f"import sys, {names}; print(*sys.modules.keys() & set({_HEAVY!r}))"
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
