"""The state that a run stores in its output folder in addition to the answers, so that a later run can continue.

part-00000.jsonl ...     the answers, in the order of the input; the suffix depends on the format
errors.jsonl             the rows without an answer, with reasons; rewritten at the end of each run
_run/settings.json       the run's settings, and their fingerprint
_run/part-00000.json     marks a part as finished; written last, so a part without it is done again
_run/part-00000.journal  answers of an unfinished part; only on local disks
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from visionsplit_batch.errors import OutputError, RefusedRunError
from visionsplit_batch.rows.part_state import FailedRow, PartState, RunTotals
from visionsplit_batch.storage.run_files import ERRORS, RUN_SETTINGS, STATE
from visionsplit_batch.storage.storage import Storage, join, local_path, parse

_log = logging.getLogger(__name__)

_MAX_STATE_BYTES = 1 << 30  # of one state file


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A short hash of everything that decides what a run writes."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class RunFolder:
    """The state of one run. One process uses it at a time, which a lock enforces in local folders."""

    def __init__(self, location: str, storage: Storage) -> None:
        self.location = location
        self.storage = storage
        self._lock: int | None = None
        self._done: set[int] = set()
        self._present: set[str] = set()  # files that existed at the start of this run

    @contextlib.contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Start the run or continue it.

        Raises:
            RefusedRunError: the folder belongs to a run with other settings, contains other files, or lacks write
                permission.
            OutputError: the folder belongs to a job that is still running.
        """
        try:
            with self._permitted():
                self._begin(settings)
            yield
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def check_access(self) -> None:
        """Check that the folder can be read, before work is spent on the input.

        Raises:
            RefusedRunError: the permission is missing.
        """
        with self._permitted():
            self.storage.exists(self.location)

    def name_of(self, part: int, suffix: str, retry: int = 0) -> str:
        """The name of a part's file of answers; each retry has a separate file, since written files never change."""
        return f"part-{part:05d}{f'.retry{retry}' if retry else ''}{suffix}"

    def answers(self, name: str) -> str:
        """The location of a file of answers."""
        return join(self.location, name)

    def intact(self, part: int) -> PartState | None:
        """The state of a part, if it is finished and all files of its answers exist.

        If a file is missing, the part is done again: its remaining files are deleted, since the new file will have all
        answers.
        """
        state = self.state(part)
        if state is None or not (missing := [name for name in state.files if name not in self._present]):
            return state
        _log.warning("%s is missing in %s; part %d is done again", ", ".join(missing), self.location, part)
        for name in state.files:
            self.storage.delete(self.answers(name))
        self._done.remove(part)
        return None

    def check_rows(self, parts: int) -> None:
        """Check that the input has not lost whole parts.

        Args:
            parts: the present number of the input's parts.

        Raises:
            RefusedRunError: a part with a higher number is finished.
        """
        if (last := max(self._done, default=-1)) >= parts:
            raise RefusedRunError(
                f"the input differs from the one with which {self.location} was begun: it ends before part {last}, "
                "which is done; give a new folder"
            )

    def state(self, part: int) -> PartState | None:
        """The state of a part; None if it is not finished."""
        if part not in self._done:
            return None
        data = self.storage.read(self._state_location(part), _MAX_STATE_BYTES)
        try:
            return PartState.from_json(data)
        except (ValueError, TypeError, KeyError) as error:
            raise OutputError(f"{self._state_location(part)} cannot be understood: {error}") from error

    def commit(self, state: PartState) -> None:
        """Mark a part as finished, after its answers have been written."""
        with self.storage.write_atomically(self._state_location(state.number)) as file:
            file.write(state.to_json())
        self._done.add(state.number)
        journal = self.journal(state.number)
        if journal is not None:
            journal.unlink(missing_ok=True)

    def journal(self, part: int) -> Path | None:
        """The file for answers of an unfinished part; None in stores, where files cannot be appended to."""
        if parse(self.location) is not None:
            return None
        return Path(local_path(self.location)) / STATE / f"part-{part:05d}.journal"

    def states(self) -> Iterator[PartState]:
        """The states of all finished parts, in order."""
        for part in sorted(self._done):
            state = self.state(part)
            assert state is not None
            yield state

    def write_errors(self, line: Callable[[FailedRow], bytes]) -> RunTotals:
        """Rewrite the list of failed rows from the parts' states, or remove it if there are none.

        The list is therefore always complete, and never contains a row that was answered later. In a store each state
        is a request, so the states are read once, both for the list and for the totals.
        """
        location = join(self.location, ERRORS)
        parts = written = failed = 0

        def rows() -> Iterator[FailedRow]:
            nonlocal parts, written, failed
            for state in self.states():
                parts, written, failed = parts + 1, written + state.written, failed + len(state.failed)
                yield from state.failed

        failures = rows()
        first = next(failures, None)
        if first is None:
            self.storage.delete(location)
        else:
            with self.storage.write_atomically(location) as file:
                for row in itertools.chain([first], failures):
                    file.write(line(row))
        return RunTotals(parts, written, failed)

    @contextlib.contextmanager
    def _permitted(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise RefusedRunError(f"the output {self.location} cannot be used: {error}") from error

    def _begin(self, settings: Mapping[str, Any]) -> None:
        self._check(settings)  # before anything is created: a refused folder must stay unchanged
        self.storage.make_folders(join(self.location, STATE))
        self._take_lock()
        if not self._check(settings):  # again under the lock: another job may have started in between
            self._write_settings(settings)
        names = self.storage.list(join(self.location, STATE), max_depth=1)
        self._done = {int(name[5:-5]) for name in names if name.startswith("part-") and name.endswith(".json")}
        self._present = set(self.storage.list(self.location, max_depth=1))

    def _check(self, settings: Mapping[str, Any]) -> bool:
        """Whether this run was started here before.

        Raises:
            RefusedRunError: the folder belongs to another run or contains other files.
        """
        location = join(self.location, RUN_SETTINGS)
        if not self.storage.is_file(location):
            if self.storage.is_file(self.location):
                raise RefusedRunError(f"the output {self.location} is a file; give a folder")
            if self.storage.is_folder(self.location) and next(self._foreign(), None) is not None:
                raise RefusedRunError(
                    f"{self.location} has files in it and is not the output of a run; give a new folder"
                )
            return False
        try:
            # Older versions stored names that are not UTF-8 without escaping them.
            text = self.storage.read(location, _MAX_STATE_BYTES).decode(errors="surrogateescape")
            stored = json.loads(text)["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedRunError(f"{location} cannot be understood: {error}") from error
        if fingerprint(stored) != fingerprint(settings):
            differences = "; ".join(_differences(stored, json.loads(json.dumps(settings))))
            raise RefusedRunError(
                f"{self.location} belongs to a run with other settings: {differences}; give a new folder"
            )
        return True

    def _write_settings(self, settings: Mapping[str, Any]) -> None:
        content = {"fingerprint": fingerprint(settings), "settings": settings}
        with self.storage.write_atomically(join(self.location, RUN_SETTINGS)) as file:
            file.write(json.dumps(content, indent=2).encode())

    def _foreign(self) -> Iterator[str]:
        """Files that do not belong to a run."""
        for name in self.storage.list(self.location, max_depth=1):
            if not name.startswith("."):
                yield name

    def _take_lock(self) -> None:
        if parse(self.location) is not None:
            return
        path = Path(local_path(self.location)) / STATE / "lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"another job is writing to {self.location}") from error

    def _state_location(self, part: int) -> str:
        return join(self.location, f"{STATE}/part-{part:05d}.json")


def _differences(old: object, new: object, name: str = "") -> Iterator[str]:
    """The differences between two JSON values, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name or 'settings'} was {json.dumps(old)}, is {json.dumps(new)}"
