"""visionsplit as a model of lmms-eval: its questions become calls of services, or of a model in this process.

The chat interface, which lmms-eval prefers: a task gives a conversation, with its images as Pillow images. These are
sent without loss and at their full size; the encoder's image processor alone cuts them.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import visionsplit_local
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from tqdm import tqdm
from visionsplit_client import Client, Generation, Sampling, VisionSplitError

from benchmarks.public.calls import answers, patiently
from benchmarks.public.prompts import Question, question_from
from benchmarks.public.sampling import sampling_from
from benchmarks.public.settings import Argument, Settings
from benchmarks.public.tally import ALL, Tally


@dataclass(frozen=True)
class Job:
    """One question of a task, ready to send."""

    task: str
    document: int
    question: Question
    sampling: Sampling


class VisionSplit(lmms):  # type: ignore[misc]  # lmms-eval has no types
    """Asks a running system, or a model in this process. The model arguments are the fields of `Settings`.

    Raises:
        ValueError: an unknown argument, a batch size (the services make their own batches; `concurrency` keeps them
            filled), or more than one process.
    """

    is_simple = False

    def __init__(
        self,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **arguments: Argument,
    ) -> None:
        super().__init__()
        if str(batch_size) != "1" or max_batch_size is not None or device is not None:
            raise ValueError(
                "batch_size, max_batch_size and device are the services' own; "
                "give concurrency=N among the model arguments to have N questions under way"
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("run one process of lmms-eval; concurrency=N keeps the services busy, not more processes")
        self.settings = Settings.from_arguments(arguments)
        self._tally = Tally()

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """The answers, in the order of the questions.

        Raises:
            VisionSplitError: a call failed; the text names task and document.
            ValueError: a question that the services cannot be asked.
        """
        start, results, generated = time.monotonic(), [], 0
        with self._client() as client:
            about = _described(client)
            asked = answers(
                lambda job: (job, self._ask(client, job)), self._jobs(requests), concurrency=self.settings.concurrency
            )
            for job, generation in tqdm(asked, total=len(requests), desc="Model Responding"):
                usage = generation.usage
                generated += usage.generated_tokens
                self._tally.add(job.task, len(job.question.images), usage, generation.layer_tokens)
                counts = TokenCounts(input_tokens=usage.prompt_tokens, output_tokens=usage.generated_tokens)
                results.append(GenerationResult(generation.text, counts))
        self._conclude(time.monotonic() - start, generated, about)
        return results

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError(
            f"the services generate text and report no likelihoods, which these tasks need: {_tasks(requests)}; "
            "choose tasks whose output_type is generate_until"
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError(f"tasks of several rounds are not supported: {_tasks(requests)}")

    def _client(self) -> Client:
        settings = self.settings
        if settings.model is not None:
            return visionsplit_local.VisionSplit(settings.model, timeout=settings.timeout)
        return Client(settings.encoder, timeout=settings.timeout)

    def _jobs(self, requests: Sequence[Instance]) -> Iterator[Job]:
        for number, request in enumerate(requests):
            _, to_messages, arguments, document, task, split = request.args
            question = question_from(to_messages(self.task_dict[task][split][document]), self.settings.prompt)
            if len(question.images) > self.settings.max_images:
                raise ValueError(
                    f"document {document} of task {task} has {len(question.images)} images; "
                    f"max_images is {self.settings.max_images}"
                )
            sampling = sampling_from(arguments, stop=self.settings.stop, seed=self.settings.seed + number)
            yield Job(task, document, question, sampling)

    def _ask(self, client: Client, job: Job) -> Generation:
        settings = self.settings
        try:
            return patiently(
                lambda: client.generate(
                    job.question.images,
                    job.question.prompt,
                    messages=job.question.messages,
                    compression=settings.compression,
                    data_type=settings.data_type,
                    pruning=settings.llm_pruning,
                    position_ids=settings.position_ids,
                    sampling=job.sampling,
                ),
                seconds=settings.timeout,
            )
        except VisionSplitError as error:
            raise type(error)(f"document {job.document} of task {job.task}: {error}") from error

    def _conclude(self, seconds: float, generated: int, about: dict[str, Any]) -> None:
        """Write the counts to the log, to lmms-eval's results ("throughput") and to the requested file."""
        for line in self._tally.lines():
            logger.info(line)
        figures = self._tally.report().get(ALL, {})
        log_metrics(
            total_elapsed_time=seconds,
            total_gen_tokens=generated,
            avg_speed=generated / seconds,
            additional_metrics={name: value for name, value in figures.items() if value is not None},
        )
        if self.settings.tokens_file is not None:
            self._tally.write(self.settings.tokens_file, {**about, "model_args": self.settings.to_arguments()})


def _described(client: Client) -> dict[str, Any]:
    info = client.encoder_info()
    return {"model": info.model, "version": info.version}


def _tasks(requests: Sequence[Instance]) -> str:
    return ", ".join(sorted({str(request.task_name) for request in requests}))
