"""`python -m tests.admission_patterns` tests the rule on many patterns and prints the results."""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

from tests.admission_patterns.patterns import make
from tests.admission_patterns.trial import MOST_MISSED, MOST_MORE_REFUSED, Outcome, by_oracle, by_rule


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.admission_patterns")
    parser.add_argument("--patterns", type=int, default=2000, help="The number of patterns. Default: %(default)s.")
    parser.add_argument("--seed", type=int, default=0, help="The first pattern's seed. Default: %(default)s.")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="The number of processes. Default: one for each core."
    )
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.patterns)
    rule, oracle = Outcome(), Outcome()
    worst: list[tuple[int, int, int]] = []
    with ProcessPoolExecutor(options.processes) as pool:
        for seed, (ours, known) in zip(seeds, pool.map(_both, seeds, chunksize=8), strict=True):
            rule.add(ours)
            oracle.add(known)
            worst.append((ours.refused - known.refused, ours.missed, seed))
    for name, outcome in (("rule", rule), ("oracle", oracle)):
        print(f"{name:>7}: " + ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in asdict(outcome).items()))
    more = (rule.refused - oracle.refused) / rule.calls
    missed = rule.missed / (rule.served + rule.missed)
    print(f"refused beyond the oracle: {more:.2%} of the calls; at most {MOST_MORE_REFUSED:.0%}")
    print(f"let in and not served in time: {missed:.2%} of those let in; at most {MOST_MISSED:.0%}")
    print("most refused beyond the oracle, by seed:", {seed: count for count, _, seed in sorted(worst)[:-6:-1]})
    by_missed = sorted(worst, key=lambda row: -row[1])
    print("most let in and not served in time, by seed:", {seed: count for _, count, seed in by_missed[:5]})
    good = not rule.refused_while_idle and more <= MOST_MORE_REFUSED and missed <= MOST_MISSED
    return 0 if good else 1


def _both(seed: int) -> tuple[Outcome, Outcome]:
    pattern = make(seed)
    return by_rule(pattern), by_oracle(pattern)


if __name__ == "__main__":
    sys.exit(main())
