"""`python -m tests.admission_patterns` tries the rule on many patterns and prints what came of it."""

import argparse
import sys
import time

from tests.admission_patterns.patterns import make
from tests.admission_patterns.trial import Outcome, by_oracle, by_rule


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.admission_patterns")
    parser.add_argument("--patterns", type=int, default=2000, help="The number of patterns. Default: %(default)s.")
    parser.add_argument("--seed", type=int, default=0, help="The first pattern's seed. Default: %(default)s.")
    options = parser.parse_args()
    started = time.monotonic()
    ours, oracles = Outcome(), Outcome()
    rows = []
    for seed in range(options.seed, options.seed + options.patterns):
        pattern = make(seed)
        rule, oracle = by_rule(pattern), by_oracle(pattern)
        ours.add(rule)
        oracles.add(oracle)
        rows.append((rule.refused - oracle.refused, rule.missed, pattern, rule, oracle))
    for name, one in (("rule", ours), ("oracle", oracles)):
        print(name, one)
    print(f"more refused {(ours.refused - oracles.refused) / ours.calls:.2%}")
    print(f"missed {ours.missed / (ours.calls - ours.refused):.2%} of those let in")
    for key in (0, 1):
        print("worst by", ["refusals", "misses"][key])
        for more, missed, p, rule, oracle in sorted(rows, key=lambda r: -r[key])[:6]:
            print(
                more,
                missed,
                p.seed,
                "device" if p.device else "parallel",
                p.at_once,
                round(p.seconds, 3),
                p.speed_change,
                rule,
                oracle.refused,
                {c.deadline for c in p.calls},
                len({c.caller for c in p.calls}),
            )
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
