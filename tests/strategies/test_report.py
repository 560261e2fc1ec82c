"""What a round's report books."""

import pytest
from flwr.app import MetricRecord

from fedpurel_app.core.phase import Phase
from fedpurel_app.strategies.round_report import RoundReport


@pytest.mark.parametrize("workers, busiest", [((), 5.0), ((7, 7), 8.0), ((7, 8), 5.0)])
def test_the_time_of_the_busiest_process_counts_and_real_sites_are_processes_of_their_own(workers, busiest):
    named = [{"worker": worker} for worker in workers] or [{}, {}]
    seconds = {"a": 3.0, "b": 5.0}
    metrics = {
        site: MetricRecord({"seconds": spent, "feature-seconds": spent / 2, **worker})
        for (site, spent), worker in zip(seconds.items(), named, strict=True)
    }
    report = RoundReport(1, Phase.GLOBAL, ["a", "b"])
    report.keep_time("training", 6.0, metrics)
    assert report.seconds == {"training": 6.0, "training_at_sites": busiest, "training_features": busiest / 2}
