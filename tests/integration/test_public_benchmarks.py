"""lmms-eval itself scores running services on a task of this repository, and its model asks as any client would."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from visionsplit_client import AsyncClient, Compression, Generation, InvalidCompressionError, Prompt, Sampling

from benchmarks.public import table
from benchmarks.public.tasks import samples
from tests.conftest import ROOT
from tests.integration.system import running_system

lmms_eval = pytest.importorskip("lmms_eval", reason="make installs lmms-eval; docs/benchmarks.md says how by hand")

from lmms_eval.api.instance import Instance  # noqa: E402

from benchmarks.public.adapter import VisionSplit  # noqa: E402

TASK = "visionsplit_samples"
GLOBALCOM2 = Compression("globalcom2", 0.1)
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: <image>\n{question} ASSISTANT:"
)


def documents() -> list[dict[str, str]]:
    lines = (ROOT / "benchmarks/public/tasks/samples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


async def asked_one_by_one(client: AsyncClient, *, template: str | None) -> list[Generation]:
    """What the services say to each question by itself."""
    return [
        await client.generate(
            ROOT / "models/samples" / document["image"],
            document["question"] if template is None else Prompt.raw(template.format(question=document["question"])),
            compression=GLOBALCOM2,
            sampling=Sampling(max_new_tokens=16, temperature=0.0),
        )
        for document in documents()
    ]


def mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)


async def test_lmms_eval_scores_a_row_end_to_end(shipped_checkpoint: Path, tmp_path: Path) -> None:
    command = ["-m", "benchmarks.public.run", "--rows", "globalcom2-10", "--tasks", TASK, "--out", str(tmp_path)]
    async with running_system(shipped_checkpoint) as system:
        direct = await asked_one_by_one(system.client, template=None)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(*command, "--prompt", "checkpoint", "--concurrency", "4", "--encoder", system.encoder_address),
            cwd=ROOT,
            env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()

    row = tmp_path / "globalcom2-10"
    answers = [json.loads(line) for line in next(row.glob("*_samples_*.jsonl")).read_text().splitlines()]
    assert [one["filtered_resps"] for one in answers] == [one.text for one in direct]
    assert len({one.text for one in direct}) > 6  # else the order says little
    right = [
        one.text.strip().lower() == document["answer"].lower()
        for one, document in zip(direct, documents(), strict=True)
    ]
    (file,) = table.result_files(row)
    score = json.loads(file.read_text())["results"][TASK]["exact_match,none"]
    assert score == pytest.approx(mean(right))
    assert 0.3 < score <= 1

    usages = [one.usage for one in direct]
    tokens = json.loads((row / "tokens.json").read_text())
    assert tokens["model"] == "visionsplit-mini"
    counted = tokens["tasks"][TASK]
    assert counted["mean_llm_vision_tokens"] == pytest.approx(
        mean([u.vision_tokens + u.newline_tokens for u in usages])
    )
    assert counted["retention"] == pytest.approx(
        sum(u.vision_tokens for u in usages) / sum(u.vision_tokens_before for u in usages)
    )
    assert b"entered the language model" in printed


def model(address: str, **arguments: Any) -> VisionSplit:
    """The adapter as lmms-eval makes it, with the sample task's documents."""
    text = ",".join(f"{name}={value}" for name, value in {"encoder": address, **arguments}.items())
    made = VisionSplit.create_from_arg_string(text, {"batch_size": 1, "device": None})
    made.task_dict = {TASK: {"test": documents()}}
    return made


def request(number: int, kind: str = "generate_until", **generation: Any) -> Instance:
    def to_messages(document: dict[str, str]) -> list[dict[str, Any]]:
        (image,) = samples.images(document)
        content = [{"type": "image", "url": image}, {"type": "text", "text": samples.text(document)}]
        return [{"role": "user", "content": content}]

    return Instance(
        request_type=kind,
        arguments=(samples.text(documents()[number]), to_messages, generation, number, TASK, "test"),
        idx=0,
        metadata={"task": TASK, "doc_id": number, "repeats": 1},
    )


async def test_its_prompt_is_that_of_llavas_own_adapter(shipped_checkpoint: Path) -> None:
    requests = [request(number, max_new_tokens=16, temperature=0, until=["\n\n"]) for number in range(len(documents()))]
    async with running_system(shipped_checkpoint) as system:
        direct = await asked_one_by_one(system.client, template=VICUNA)
        adapter = model(system.encoder_address, method="globalcom2", retention_ratio=0.1, concurrency=3)
        results = await asyncio.to_thread(adapter.generate_until, requests)
    local = model("127.0.0.1:1", model=shipped_checkpoint, method="globalcom2", retention_ratio=0.1)
    for answers in (results, local.generate_until(requests)):
        assert [one.text for one in answers] == [one.text for one in direct]
        assert [one.token_counts.input_tokens for one in answers] == [one.usage.prompt_tokens for one in direct]


async def test_a_refused_question_is_named(shipped_checkpoint: Path) -> None:
    async with running_system(shipped_checkpoint) as system:
        adapter = model(system.encoder_address, method="nonesuch", retention_ratio=0.1)
        with pytest.raises(InvalidCompressionError, match=rf"document 0 of task {TASK}: .*'nonesuch'"):
            await asyncio.to_thread(adapter.generate_until, [request(0)])
        crowded = model(system.encoder_address, max_images=1)
        two = request(0)
        two.arguments = (two.args[0], lambda _: _two_images(), *two.args[2:])
        with pytest.raises(ValueError, match=r"document 0 of task visionsplit_samples has 2 images; max_images is 1"):
            await asyncio.to_thread(crowded.generate_until, [two])


def test_what_the_services_do_not_offer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = model("127.0.0.1:1")
    with pytest.raises(NotImplementedError, match=rf"report no likelihoods, which these tasks need: {TASK};"):
        adapter.loglikelihood([request(0, "loglikelihood")])
    with pytest.raises(NotImplementedError, match=f"several rounds are not supported: {TASK}"):
        adapter.generate_until_multi_round([request(0)])
    with pytest.raises(ValueError, match="give concurrency=N"):
        VisionSplit(batch_size=8)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process"):
        VisionSplit()


def _two_images() -> list[dict[str, Any]]:
    image = {"type": "image", "url": Image.new("RGB", (20, 20))}
    return [{"role": "user", "content": [image, image, {"type": "text", "text": "Which?"}]}]
