"""`make bench-batch` on a tiny model: the table comes out, and without compression the job answers as the loop does."""

import pytest

from benchmarks.batch.__main__ import main


def test_the_job_answers_as_the_loop_does(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--images", "5", "--batch-sizes", "1", "2", "--max-new-tokens", "6"]) == 0
    output = capfd.readouterr().out
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("| ")]
    header, _, *rows = [row for row in cells if len(row) == 9]
    table = {row[0].removesuffix(" (the fastest)"): dict(zip(header, row, strict=True)) for row in rows}
    jobs = [f"batch job, services, {ratio}" for ratio in ("100%", "10%")]
    assert list(table) == ["loop, batch 1", "loop, batch 2", *jobs]
    assert [table[name]["answers as batch 1"] for name in ("loop, batch 1", jobs[0])] == ["100%", "100%"]
    assert table[jobs[0]]["tokens kept"] == "100.0%"
    assert float(table[jobs[1]]["tokens kept"].removesuffix("%")) < 15
    assert f"{jobs[0]}: " in output  # with what is needed of it
