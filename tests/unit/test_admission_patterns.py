"""Which calls are refused, on part of the random patterns of `python -m tests.admission_patterns`."""

from tests.admission_patterns.patterns import make
from tests.admission_patterns.trial import MOST_MISSED, MOST_MORE_REFUSED, Outcome, by_oracle, by_rule

SEEDS = range(24)


def test_the_rule_refuses_hardly_more_than_who_knows_the_wait_and_lets_few_in_in_vain():
    rule, oracle = Outcome(), Outcome()
    for seed in SEEDS:
        pattern = make(seed)
        rule.add(by_rule(pattern))
        oracle.add(by_oracle(pattern))
    assert oracle.refused > 0.05 * oracle.calls  # there is something to refuse
    assert rule.refused_while_idle == 0
    assert rule.refused <= oracle.refused + MOST_MORE_REFUSED * rule.calls
    assert rule.missed <= MOST_MISSED * (rule.served + rule.missed)
