"""Budgets: how many tokens each tile may keep."""

from collections.abc import Mapping

from encoder_service.compression.base import Budget
from encoder_service.compression.budgets.attention_share import AttentionShareBudget
from encoder_service.compression.budgets.even import PooledBudget, UniformBudget
from encoder_service.compression.budgets.outliers import OutlierBudget
from encoder_service.compression.budgets.thumbnail import SoftmaxMaxBudget, SoftmaxSumBudget, TopKCountBudget

_ALL: tuple[Budget, ...] = (
    SoftmaxSumBudget(),
    SoftmaxMaxBudget(),
    TopKCountBudget(),
    UniformBudget(),
    PooledBudget(),
    OutlierBudget(),
    AttentionShareBudget(),
)
BUDGETS: Mapping[str, Budget] = {budget.name: budget for budget in _ALL}
