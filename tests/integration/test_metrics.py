"""The metrics of both services, as a scraper and `visionsplit top` read them."""

import asyncio
import json
import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from visionsplit.errors import InvalidCompressionError, InvalidSamplingError, UnavailableError
from visionsplit.telemetry.config import TelemetryConfig
from visionsplit.telemetry.setup import Telemetry
from visionsplit_cli import main
from visionsplit_cli.top.samples import Samples, read_samples
from visionsplit_client import Compression, Generation, Pruning, Sampling

from encoder_service.config import CacheLimits
from tests.conftest import ROOT
from tests.integration.system import System, running_system
from tests.noise import noise_image

METRICS = {"telemetry": TelemetryConfig(metrics="127.0.0.1:0")}
PROMPT = "What is this?"
KEEP_HALF = Compression("globalcom2", 0.5)


@pytest.fixture(scope="module")
def checkpoint(random_checkpoints: dict[str, Path]) -> Path:
    return random_checkpoints["llama"]


async def pages(system: System) -> tuple[Samples, Samples]:
    addresses = [f"127.0.0.1:{server.metrics_port}" for server in (system.encoder, system.llm)]
    encoder = await asyncio.to_thread(read_samples, addresses[0], "encoder")
    return encoder, await asyncio.to_thread(read_samples, addresses[1], "llm")


async def cancels_known(system: System) -> bool:
    return all(page.total("requests_total", code="CANCELLED") for page in await pages(system))


async def some_requests(system: System) -> list[Generation]:
    """Two answers, one of them pruned, a refusal by each service, and a call given up. Returns the answers."""
    picture = noise_image(100, 90)
    ask = system.client.generate
    four = Sampling(max_new_tokens=4)
    answers = [
        await ask(picture, PROMPT, compression=KEEP_HALF, sampling=four),
        await ask(picture, PROMPT, pruning=Pruning("fastv", 0.5, {"layer": 1}), sampling=four),
    ]
    with pytest.raises(InvalidCompressionError):
        await ask(picture, PROMPT, compression=Compression("no such method", 0.5))
    with pytest.raises(InvalidSamplingError):
        await ask(picture, PROMPT, sampling=Sampling(top_p=0.9, temperature=-1))
    async with system.client.stream(picture, PROMPT, sampling=Sampling(max_new_tokens=700)) as events:
        await anext(events)
    async with asyncio.timeout(20):
        while not await cancels_known(system):  # noqa: ASYNC110 - the servers learn of it a moment later
            await asyncio.sleep(0.05)
    return answers


async def test_what_is_counted(checkpoint: Path) -> None:
    """Without a cache, so that every image passes every stage."""
    encoding = {**METRICS, "cache": CacheLimits(memory_bytes=0)}
    async with running_system(checkpoint, encoder=encoding, llm=METRICS) as system:
        first, second = await some_requests(system)
        encoder, llm = await pages(system)

    assert encoder.by("requests_total", "code") == {"OK": 2, "INVALID_ARGUMENT": 2, "CANCELLED": 1}
    assert llm.by("requests_total", "code") == {"OK": 2, "INVALID_ARGUMENT": 1, "CANCELLED": 1}
    assert set(encoder.by("requests_total", "method")) == {"Generate"}
    assert encoder.total("requests_in_flight") == llm.total("requests_in_flight") == 0

    # The refusal by the LLM service may come before or after the tokens are ready.
    images = encoder.by("images_total", "compression")
    assert images["globalcom2"] == 1
    assert images["none"] in (2, 3)
    assert set(images) == {"globalcom2", "none"}
    kept = first.images[0]
    assert encoder.total("vision_tokens_before_total", compression="globalcom2") == kept.tokens_before
    assert encoder.total("vision_tokens_after_total", compression="globalcom2") == kept.tokens_after
    assert encoder.total("wire_bytes_total", compression="globalcom2") == kept.wire_bytes
    for stage in ("preprocess", "queue", "encode", "first_chunk", "image"):
        assert encoder.total(f"{stage}_seconds_count") == sum(images.values())
        assert 0 <= encoder.total(f"{stage}_seconds_sum") < 60
    assert encoder.total("encode_seconds_sum") <= encoder.total("image_seconds_sum")
    assert encoder.total("batch_tiles_sum") >= 3 * kept.grid.num_tiles
    assert encoder.total("compression_seconds_sum") <= encoder.total("batch_seconds_sum")
    assert encoder.total("queued_tiles") == encoder.total("reserved_tiles") == 0

    assert llm.total("images_total") == 3
    assert llm.total("vision_tokens_before_total", pruning="fastv") == second.usage.vision_tokens_before
    assert llm.total("vision_tokens_after_total") == llm.total("prompt_tokens_total", kind="vision")
    assert llm.total("receive_seconds_count") == llm.total("time_to_first_token_seconds_count") == 3
    assert llm.total("decode_seconds_count") == 2
    generated = first.usage.generated_tokens + second.usage.generated_tokens
    assert llm.total("generated_tokens_total") > generated
    # The tokens of an answer's first event have no time between them; the third call was cancelled.
    assert 0 < llm.total("inter_token_seconds_count") <= llm.total("generated_tokens_total") - 3
    ttft = first.timings.first_token_seconds + second.timings.first_token_seconds
    assert llm.total("time_to_first_token_seconds_sum") >= 0.99 * ttft
    assert llm.total("replicas") == 1
    assert llm.total("slab_tokens") > 0


async def test_top_shows_it(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_system(checkpoint, encoder=METRICS, llm=METRICS) as system:
        options = [
            "top",
            "--once",
            f"--encoder-metrics=127.0.0.1:{system.encoder.metrics_port}",
            f"--llm-metrics=127.0.0.1:{system.llm.metrics_port}",
        ]
        await system.client.generate(
            noise_image(100, 90), PROMPT, compression=KEEP_HALF, sampling=Sampling(max_new_tokens=4)
        )
        assert await asyncio.to_thread(main, [*options, "--json"]) == 0
        view = json.loads(capsys.readouterr().out)
        with pytest.raises(InvalidCompressionError):
            await system.client.generate(noise_image(100, 90), PROMPT, compression=Compression("no-such", 0.5))
        assert await asyncio.to_thread(main, options) == 0
        shown = capsys.readouterr().out
        exchanged = [*options, f"--encoder-metrics=127.0.0.1:{system.llm.metrics_port}"]
        assert await asyncio.to_thread(main, exchanged) == 1
        assert "is not the encoder service" in capsys.readouterr().err

    assert view["encoder"]["requests_by_code"] == view["llm"]["requests_by_code"] == {"OK": 1}
    assert 0.4 < view["encoder"]["saving"] < 0.6
    assert view["encoder"]["tokens_after"] == view["llm"]["tokens_after"]
    assert 0 < view["llm"]["time_to_first_token_seconds"]["p50"] <= view["llm"]["time_to_first_token_seconds"]["p99"]
    assert view["llm"]["inter_token_seconds"]["p50"] > 0
    assert "TTFT" in shown
    assert "1 failed (INVALID_ARGUMENT 1)" in shown
    assert " 1 replica," in shown
    assert "\x1b" not in shown

    assert await asyncio.to_thread(main, options) == 1
    assert "start the encoder service with --metrics" in capsys.readouterr().err


async def test_the_dashboard_asks_only_for_what_there_is(checkpoint: Path) -> None:
    async with running_system(checkpoint, encoder=METRICS, llm=METRICS) as system:
        exported = set()
        for server in (system.encoder, system.llm):
            with await asyncio.to_thread(_open, server.metrics_port) as page:
                text = page.read().decode()
            exported |= set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
            assert list(text_string_to_metric_families(text))
    exported |= {f"{name}_{part}" for name in exported for part in ("bucket", "sum", "count")}
    folder = ROOT / "deploy" / "observability"
    dashboard = json.loads((folder / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    used = {name for query in queries for name in re.findall(r"visionsplit_\w+", query)}
    assert len(used) > 20
    assert used <= exported
    described = set(re.findall(r"`(visionsplit_\w+)`", (ROOT / "docs" / "observability.md").read_text()))
    families = {name for name in exported if not name.endswith(("_bucket", "_sum", "_count", "_created"))}
    assert {name for name in families if name.startswith("visionsplit_")} == described


async def test_kept_tokens_are_counted_as_hits(checkpoint: Path) -> None:
    async with running_system(checkpoint, encoder=METRICS, llm=METRICS) as system:
        for _ in range(2):
            await system.client.generate(
                noise_image(100, 90), PROMPT, compression=KEEP_HALF, sampling=Sampling(max_new_tokens=1)
            )
        encoder, _ = await pages(system)
    assert encoder.total("cache_lookups_total", cache="memory", result="hit") == 1
    assert encoder.total("cache_lookups_total", cache="memory", result="miss") == 1
    assert encoder.total("cache_entries", cache="memory") == 1
    assert encoder.total("cache_bytes", cache="memory") > 0
    assert encoder.total("images_total") == 2
    assert encoder.total("encode_seconds_count") == 1


async def test_metrics_are_off_unless_asked_for(checkpoint: Path) -> None:
    async with running_system(checkpoint) as system:
        assert system.encoder.metrics_port is None
        assert system.llm.metrics_port is None


def _open(port: int):
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)


def test_a_taken_address_is_named() -> None:
    first = Telemetry("llm", TelemetryConfig(metrics="127.0.0.1:0"))
    first.serve_metrics()
    second = Telemetry("llm", TelemetryConfig(metrics=f"127.0.0.1:{first.metrics_port}"))
    try:
        with pytest.raises(UnavailableError, match="cannot listen on 127"):
            second.serve_metrics()
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("address", ["localhost:", ":9051", "127.0.0.1:x", "127.0.0.1:70000", ""])
def test_an_address_of_another_form(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT is needed"):
        TelemetryConfig(metrics=address)
