"""Two encoders follow an LLM service that changes; `python -m tests.health_follow` runs more events."""

import asyncio

from tests.health_follow import follow


async def test_no_encoder_is_wrong_about_an_llm_service_for_two_seconds() -> None:
    report = await asyncio.to_thread(follow, 25, seed=3, steady_seconds=0.8)
    assert not report.faults
    assert len(report.events) > 8
