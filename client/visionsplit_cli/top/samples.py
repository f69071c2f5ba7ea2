"""A service's page of metrics as numbers: sums of counters, quantiles of histograms, what changed between two pages."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from visionsplit.errors import UnavailableError
from visionsplit.network.web import fetch
from visionsplit.network.web_connections import WebError

_TIMEOUT_SECONDS = 5.0
_MAX_PAGE_BYTES = 16 * 1024 * 1024

Labels = frozenset[tuple[str, str]]
Key = tuple[str, Labels]


@dataclass(frozen=True)
class Samples:
    """One page, or the difference of two. Names come without the service's prefix."""

    values: Mapping[Key, float]
    gauges: frozenset[str] = field(default_factory=frozenset)  # names whose values do not add up over time

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of a name that have these labels; 0 without any."""
        wanted = set(labels.items())
        return sum(value for (sample, has), value in self.values.items() if sample == name and wanted <= has)

    def largest(self, name: str) -> float | None:
        """Of all samples of a name; None without any."""
        return max((value for (sample, _), value in self.values.items() if sample == name), default=None)

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sum for each value of a label, without zeros."""
        sums: dict[str, float] = {}
        for (sample, labels), value in self.values.items():
            if sample == name and value:
                group = dict(labels).get(label, "")
                sums[group] = sums.get(group, 0.0) + value
        return sums

    def quantile(self, name: str, share: float) -> float | None:
        """Of a histogram, linear inside a bucket; None without observations. The last bucket's is its lower bound."""
        buckets = sorted(
            (float(dict(labels)["le"]), value)
            for (sample, labels), value in self.values.items()
            if sample == f"{name}_bucket"
        )
        if not buckets or not buckets[-1][1]:
            return None
        rank = share * buckets[-1][1]
        below, counted = 0.0, 0.0
        for bound, count in buckets:
            if count >= rank and count > counted:
                inside = (rank - counted) / (count - counted)
                return below if math.isinf(bound) else below + (bound - below) * inside
            below, counted = bound, count
        return below

    def since(self, earlier: "Samples") -> "Samples":
        """What has been added since; gauges stay as they are. A service that was restarted counts from zero."""
        restarted = self.total("start_time_seconds") != earlier.total("start_time_seconds")
        if restarted:
            return self
        changed = {
            key: value if key[0] in self.gauges else value - earlier.values.get(key, 0.0)
            for key, value in self.values.items()
        }
        return Samples(changed, self.gauges)


def read_samples(address: str, service: str) -> Samples:
    """The page at HOST:PORT.

    Args:
        address: where the service is set to serve its metrics.
        service: "encoder" or "llm", whose metrics they must be.

    Raises:
        UnavailableError: there is no answer, the answer is something else, or the package that reads it is missing.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise UnavailableError(f"`visionsplit top` needs visionsplit[cli]: {error}") from None
    try:
        page = fetch(f"http://{address}/metrics", max_bytes=_MAX_PAGE_BYTES, timeout=_TIMEOUT_SECONDS)
        families = list(text_string_to_metric_families(page.data.decode()))
    except WebError as error:
        raise UnavailableError(
            f"no metrics at {address}: {error}; start the {service} service with --metrics {address}, "
            "or both services with `visionsplit up --metrics`"
        ) from None
    except ValueError as error:
        raise UnavailableError(f"what answers at {address} serves no metrics ({error})") from None
    prefix = f"visionsplit_{service}_"
    values: dict[Key, float] = {}
    gauges: set[str] = set()
    for family in families:
        for sample in family.samples:
            if sample.name.startswith(prefix) and not sample.name.endswith("_created"):
                name = sample.name.removeprefix(prefix)
                values[name, frozenset(sample.labels.items())] = sample.value
                if family.type == "gauge":
                    gauges.add(name)
    if not values:
        raise UnavailableError(f"what answers at {address} is not the {service} service")
    return Samples(values, frozenset(gauges))
