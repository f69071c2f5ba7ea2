"""The report of the scale benchmark, and its simulated devices behind the real services."""

import asyncio
import dataclasses
from pathlib import Path

import pytest
import torch
from visionsplit_client import AsyncClient, Compression, Sampling

from benchmarks.scale.arithmetic import Costs, llm_rate
from benchmarks.scale.devices import DeviceTime, SimulatedEngines, SimulatedTowers
from benchmarks.scale.measure import Point
from benchmarks.scale.report import tables, write
from benchmarks.served.cells import Cell, Meter
from encoder_service.config import EncoderConfig
from encoder_service.server import EncoderServer
from llm_service.config import LlmConfig
from llm_service.server import LlmServer
from tests.checkpoints import tiny_checkpoint
from tests.integration.system import running_system
from tests.noise import noise_image

POINT = Point(
    experiment="replicas",
    encoders=0,
    gateways=1,
    replicas=1,
    device_seconds=0.25,
    ratio=0.1,
    new_tokens=16,
    upload_bytes=600_000,
    callers=8,
    rates=[3.9, 4.1],
    first_seconds=[0.3, 0.4],
    processor_seconds={"gateway": 0.010, "replica": 0.006, "client": 0.002},
    busy_cores={"gateway": 0.04, "replica": 0.02},
    profile=None,
)


def of(experiment: str, **fields) -> Point:
    return dataclasses.replace(POINT, experiment=experiment, **fields)


def points() -> list[Point]:
    slow = {"processor_seconds": {"encoder": 0.08}}
    of_ray = [of("gateway, Ray", device_seconds=0.0, ratio=ratio, new_tokens=1) for ratio in (0.1, 0.25, 1.0)]
    longer = {"gateway": 0.010 + 128 * 0.0005, "replica": 0.006}
    return [
        *(of("encoders", encoders=n, replicas=0, rates=[n / 0.25], **slow) for n in (1, 2)),
        of("encoders", encoders=2, replicas=0, device_seconds=0.0, **slow),
        *(of(name, replicas=n, rates=[4.0 if n == 1 else 7.2]) for name in ("replicas", "both") for n in (1, 2)),
        *of_ray,
        of("gateway, Ray", device_seconds=0.0, new_tokens=129, processor_seconds=longer),
        of("gateways", gateways=2, replicas=2),
    ]


def test_rates_are_compared_with_one_device_and_with_the_limit_of_all() -> None:
    rows = [line.split(" | ") for line in tables("a machine", points()).splitlines() if line.startswith("| replicas")]
    assert rows[1][1:6] == ["2", "250 ms", "7.20 (7.20 to 7.20)", "0.900", "0.900"]


def test_what_a_token_costs_is_the_difference_between_answers() -> None:
    costs = Costs.of(points())
    assert costs.gateway_token == pytest.approx(0.0005)
    assert costs.gateway_seconds(0.1, 65) == pytest.approx(0.010 + 64 * 0.0005)
    assert costs.replica_token == 0
    assert llm_rate(0.1) > llm_rate(1.0)


def test_only_the_measured_part_of_the_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- `make bench-scale` writes from here -->\nold\n<!-- to here -->\nafter\n")
    write(page, "new")
    text = page.read_text()
    assert (text.startswith("before\n"), text.endswith("\nafter\n"), "new" in text, "old" in text) == (
        *(True, True),
        *(True, False),
    )
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no lines"):
        write(page, "new")


async def test_simulated_devices_take_their_time_behind_the_real_services(tmp_path: Path) -> None:
    tile, step = DeviceTime(tmp_path / "tile"), DeviceTime(tmp_path / "step")
    tile.set(0.01)
    step.set(0.01)
    model = str(tiny_checkpoint(tmp_path / "model"))
    llm = LlmServer(LlmConfig(model, listen="127.0.0.1:0", device="cpu"), SimulatedEngines(step))
    llm_address = f"127.0.0.1:{await llm.start()}"
    config = EncoderConfig(model, listen="127.0.0.1:0", llm=(llm_address,), device="cpu")
    encoder = EncoderServer(config, load_half=SimulatedTowers(tile))
    try:
        async with AsyncClient(f"127.0.0.1:{await encoder.start()}") as client:
            images = [noise_image(112, 112, seed) for seed in range(6)]
            answers = await asyncio.gather(
                *(
                    client.generate(
                        image,
                        "What?",
                        compression=Compression("globalcom2", 0.5),
                        sampling=Sampling(max_new_tokens=5),
                    )
                    for image in images
                )
            )
    finally:
        await encoder.stop(None)
        await llm.stop(None)
    for answer in answers:
        assert answer.usage.generated_tokens == 5
        assert answer.timings.total_seconds >= 5 * 0.01  # steps
        assert answer.images[0].timings.encode_seconds >= 5 * 0.01  # five tiles


async def test_a_simulated_tower_gives_only_what_it_simulates(tmp_path: Path) -> None:
    model = str(tiny_checkpoint(tmp_path / "model"))
    time = DeviceTime(tmp_path / "time")
    time.set(0.0)
    config = EncoderConfig(model, listen="127.0.0.1:0", device="cpu")
    encoder = EncoderServer(config, load_half=SimulatedTowers(time))
    try:
        async with AsyncClient(f"127.0.0.1:{await encoder.start()}") as client:
            encoded = await client.encode(noise_image(112, 112), Compression("none"))
    finally:
        await encoder.stop(None)
    assert torch.equal(*torch.frombuffer(bytearray(encoded.tokens.features.data), dtype=torch.float32).view(5, -1)[:2])


async def test_served_cells_count_tokens_and_images(tmp_path: Path) -> None:
    async with (
        running_system(tiny_checkpoint(tmp_path / "model")) as system,
        Meter(system.encoder_address, system.llm_address, image_side=112, new_tokens=3) as meter,
    ):
        cells = [Cell(part, 2, 0.5) for part in ("both", "llm", "encoder")]
        both, llm, encoder = [await meter.measure(cell, warm_seconds=0.2, seconds=0.6) for cell in cells]
    for result in (both, llm):
        assert result.images_per_second == pytest.approx(result.tokens_per_second / 3)
        assert result.tokens_per_second > 0
        assert result.first_seconds[0] > 0
        assert result.gap_seconds[0] > 0
    assert encoder.images_per_second > 0
    assert (encoder.tokens_per_second, encoder.first_seconds) == (0, [])
