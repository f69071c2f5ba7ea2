"""The interface of a backend, as the gateway uses it."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping

from llm_service.job import EngineUse, Job, ReplicaInfo, TokenEvent


class Backend(ABC):
    """Runs jobs on one or more replicas."""

    name: str

    @abstractmethod
    async def start(self) -> ReplicaInfo:
        """Start the replicas and return what they run."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop the replicas; jobs still running end with UnavailableError."""

    @abstractmethod
    def generate(self, job: Job) -> AsyncGenerator[TokenEvent, None]:
        """Run a job and yield its tokens. Closing the generator cancels the job.

        Raises:
            VisionSplitError: raised by `Replica.generate`; also OverloadedError if the queue for the replicas is full,
                and UnavailableError if the replica was lost.
        """

    @property
    @abstractmethod
    def max_calls(self) -> int:
        """The number of calls that may run or wait at once; further ones would be refused after their upload."""

    @abstractmethod
    async def uses(self) -> Mapping[str, EngineUse]:
        """Memory use of each replica, by the replica's name; replicas that do not answer in time are left out.

        Asking takes no place from a job.
        """

    @abstractmethod
    async def num_replicas(self) -> int:
        """The number of healthy replicas now; 0 also if it cannot be determined."""
