"""How a job reports that it ended early."""

import json
import signal
from pathlib import Path

import pytest
import ray
from visionsplit.errors import UnavailableError
from visionsplit_batch.errors import TooManyFailuresError
from visionsplit_cli import main
from visionsplit_cli.batch import jobs

from llm_service.backends.ray_cluster import connect


@pytest.mark.parametrize(
    ("reason", "name", "code"),
    [
        (KeyboardInterrupt(), "Interrupted", 130),
        (signal.SIGTERM, "Terminated", 143),
        (TooManyFailuresError("all failed"), "TooManyFailuresError", 2),
        (UnavailableError("Ray could not start a cluster here"), "UnavailableError", 1),
    ],
)
def test_the_last_event_says_why_a_job_ended(
    reason: BaseException | signal.Signals,
    name: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def end(args: object) -> None:
        if isinstance(reason, signal.Signals):
            signal.raise_signal(reason)
        else:
            raise reason

    monkeypatch.setattr(jobs, "run", end)
    assert main(["batch", "caption", str(tmp_path), "-o", str(tmp_path / "out"), "--json"]) == code
    event = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (event["event"], event["error"]) == ("error", name)
    assert event["message"]


def test_a_cluster_that_does_not_start_is_one_of_our_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: object) -> None:
        raise Exception("The current node timed out during startup")  # Ray's own class for it

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UnavailableError, match="Ray could not start a cluster here: The current node timed out"):
        connect("local")
    with pytest.raises(UnavailableError, match="Ray could not join head:6379"):
        connect("head:6379")
