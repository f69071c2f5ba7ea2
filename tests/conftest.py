"""Markers follow the folder of a test, and checkpoints are made once per session."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Two spinning OpenMP pools on a small machine slow each other down several times over. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.checkpoints import tiny_checkpoint

ROOT = Path(__file__).parent.parent
# In the order in which they run: the longest files first.
_FOLDERS = (
    "e2e",
    "integration",
    "contract",
    "unit",
    "proxy",
    "wheel",
    "ray",
    "vllm",
)


def pytest_configure() -> None:
    # A shell starts background jobs with SIGINT ignored, and they hand that down to the processes that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = _folder_of(item)
        if folder in _FOLDERS:
            item.add_marker(folder)
    # Workers take whole files. A long file that began last would keep one worker busy while the others have none left.
    items.sort(key=lambda item: _FOLDERS.index(folder) if (folder := _folder_of(item)) in _FOLDERS else len(_FOLDERS))


def _folder_of(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


@pytest.fixture(scope="session")
def shipped_checkpoint() -> Path:
    return ROOT / "models" / "visionsplit-mini"


@pytest.fixture(scope="session")
def random_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One random-weight checkpoint for each kind of language backbone."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        text: tiny_checkpoint(folder / text, text, seed=seed) for seed, text in enumerate(("llama", "mistral", "qwen2"))
    }


@pytest.fixture
def service_log_levels() -> Iterator[None]:
    """Restores the log levels that a service's command line sets."""
    loggers = [logging.getLogger(name) for name in ("encoder_service", "llm_service", "visionsplit")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
