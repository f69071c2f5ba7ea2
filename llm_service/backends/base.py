"""What the gateway asks of the place where replicas run."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping

from llm_service.job import EngineUse, Job, ReplicaInfo, TokenEvent


class Backend(ABC):
    """Runs jobs on replicas."""

    name: str

    @abstractmethod
    async def start(self) -> ReplicaInfo:
        """Bring the replicas up and tell what they are."""

    @abstractmethod
    async def stop(self) -> None:
        """Take the replicas down; jobs that still run end with UnavailableError."""

    @abstractmethod
    def generate(self, job: Job) -> AsyncGenerator[TokenEvent, None]:
        """Run a job. Closing the generator cancels it.

        Raises:
            VisionSplitError: of `Replica.generate`; also OverloadedError where the queue for a replica is full, and
                UnavailableError where the replica was lost.
        """

    @property
    @abstractmethod
    def max_calls(self) -> int:
        """Calls that run or wait at once; those beyond it would be refused after their upload."""

    @abstractmethod
    async def uses(self) -> Mapping[str, EngineUse]:
        """What of each replica's memory is taken, by a name of the replica. One that does not say it soon is left out.
        Takes no place from a job."""

    @abstractmethod
    async def num_replicas(self) -> int:
        """Healthy replicas now; 0 also where nobody can tell."""
