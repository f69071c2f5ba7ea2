from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from visionsplit_client import Client

from tests.unit.client.fakes import FakeEncoder, FakeLlm, start_encoder, start_llm


@dataclass
class Services:
    encoder: FakeEncoder
    llm: FakeLlm
    encoder_address: str
    llm_address: str


@pytest.fixture
def services() -> Iterator[Services]:
    encoder, llm = FakeEncoder(), FakeLlm()
    encoder_server, encoder_address = start_encoder(encoder)
    llm_server, llm_address = start_llm(llm)
    yield Services(encoder, llm, encoder_address, llm_address)
    encoder_server.stop(0).wait()
    llm_server.stop(0).wait()


@pytest.fixture
def client(services: Services) -> Iterator[Client]:
    with Client(services.encoder_address, llm=services.llm_address, timeout=20) as client:
        yield client


@pytest.fixture
def where(services: Services) -> list[str]:
    """The tool's options for the services."""
    return ["--encoder", services.encoder_address, "--llm", services.llm_address]


@pytest.fixture
def image_path(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    image = Image.new("RGB", (500, 300), (200, 40, 40))
    image.paste((20, 90, 200), (250, 0, 500, 300))
    image.save(path)
    return path
