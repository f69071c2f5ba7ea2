"""The LLM service as a running server: what it loads, and how the parts are joined."""

import asyncio
from functools import partial

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.network.transport import MAX_TOKEN_MESSAGE_BYTES
from visionsplit.receiving.receiver import ReceiveLimits, Receiver
from visionsplit.server.server import Opened, Service, ServiceServer
from visionsplit.v1 import llm_service_pb2, llm_service_pb2_grpc

from llm_service.backends import make_backend
from llm_service.backends.base import Backend
from llm_service.config import LlmConfig
from llm_service.gateway.accepted import Accepted
from llm_service.gateway.call_admission import Admission
from llm_service.gateway.metrics import LlmMetrics
from llm_service.gateway.receiver import UploadReceiver
from llm_service.gateway.replica_watch import ReplicaWatch
from llm_service.gateway.service import LlmGateway
from llm_service.generation_settings import GenerationSettings
from llm_service.prompts.length_limit import PromptSize
from llm_service.prompts.prompt import PromptEncoder
from llm_service.prompts.token_lower_bound import FewestTokens
from llm_service.prompts.turns import PromptTurns
from llm_service.replica.engines import MakeEngines, make_engines

SERVICE_NAME = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name


class LlmServer(ServiceServer):
    """The LLM service of one checkpoint on one address. Started and stopped once, from one event loop."""

    def __init__(self, config: LlmConfig, make_engines: MakeEngines = make_engines) -> None:
        """
        Args:
            config: its settings.
            make_engines: what decodes in each replica.
        """
        receiving = ReceiveLimits(max_bytes=MAX_TOKEN_MESSAGE_BYTES, caller_share=config.limits.caller_share)
        super().__init__(Service("llm", SERVICE_NAME, relayed=True), config, receiving)
        self._config = config
        self._make_engines = make_engines
        self._backend: Backend | None = None
        self._watch: ReplicaWatch | None = None
        self._metrics = LlmMetrics(self.telemetry.registry)
        self._admission: Admission | None = None

    async def open(self, receiver: Receiver) -> Opened:
        config = self._config
        backend = self._backend = make_backend(config, self._make_engines)
        checkpoint = await asyncio.to_thread(Checkpoint, config.model, revision=config.revision)
        prompts = await asyncio.to_thread(PromptEncoder, checkpoint)
        fewest = await asyncio.to_thread(FewestTokens, prompts.tokenizer)
        settings = await asyncio.to_thread(GenerationSettings.of, checkpoint)
        replica = await backend.start()
        accepted = await asyncio.to_thread(
            Accepted.by_checkpoint,
            checkpoint,
            config.limits,
            replica,
            repetition_penalty=settings.repetition_penalty,
        )
        size = PromptSize(
            fewest, context_length=replica.context_length, max_characters=config.limits.max_prompt_characters
        )
        receiver.max_prompt_bytes = size.max_bytes
        admission = self._admission = Admission(
            config.limits,
            max_running=config.engine.max_running,
            max_calls=backend.max_calls,
            uploads=self._metrics.uploads,
        )
        self._watch = ReplicaWatch(
            backend=backend, metrics=self._metrics, health=self.health, set_replicas=admission.set_replicas
        )
        gateway = LlmGateway(
            model=checkpoint.name,
            backend=backend,
            replica=replica,
            accepted=accepted,
            admission=admission,
            callers=receiver.callers,
            prompts=prompts,
            receiver=UploadReceiver(accepted, PromptTurns(prompts, size)),
            end_ids=frozenset(settings.end_ids),
            metrics=self._metrics,
            tracer=self.telemetry.tracer,
            log_prompts=config.telemetry.log_prompts,
        )
        add = partial(llm_service_pb2_grpc.add_LlmServiceServicer_to_server, gateway)
        return Opened(checkpoint.name, add, admission.gate, config.limits.max_calls or backend.max_calls)

    async def serving(self) -> None:
        assert self._watch is not None, "`open` has made it"
        await self._watch.start()

    async def ending(self) -> None:
        if self._watch is not None:
            await self._watch.stop()

    async def release(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            await backend.stop()
