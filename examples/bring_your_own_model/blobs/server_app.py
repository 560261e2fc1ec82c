"""The server: FedPuReL as the strategy, and a table at the end."""

from collections.abc import Sequence
from logging import INFO, getLogger

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from blobs.task import CLASSES, GROUPS, count, linear, make_world
from fedpurel_app.strategies import FedPuReL, Schedule

app = ServerApp()
logger = getLogger("flwr.blobs")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Start at the teacher, train, and print what the tail made of it."""
    config = context.run_config
    world = make_world(int(config["seed"]))
    schedule = Schedule(int(config["global-rounds"]), int(config["personal-rounds"]))
    strategy = FedPuReL(schedule, fraction_train=0.4, seed=int(config["seed"]), evaluate_every=10, num_classes=CLASSES)

    @torch.no_grad()
    def score(_: int, arrays: ArrayRecord) -> MetricRecord:
        correct, total = count(linear(arrays.to_torch_state_dict())(world.test.x), world.test.y)
        return accuracies(correct, total)

    result = strategy.start(grid, ArrayRecord(world.teacher.state_dict()), num_rounds=schedule.total, evaluate_fn=score)
    on_server = result.evaluate_metrics_serverapp
    assert strategy.report is not None and strategy.report.scores, "the last round is evaluated"
    sites = [one.personalized for one in strategy.report.scores.values()]
    lines = {
        "teacher": on_server[0],
        "global model": on_server[schedule.total],
        "personalized, at sites": accuracies(
            np.sum([one.correct for one in sites], 0), np.sum([one.total for one in sites], 0)
        ),
    }
    logger.log(INFO, "%-24s%s", "", "".join(f"{name:>8}" for name in lines["teacher"]))
    for model, row in lines.items():
        logger.log(INFO, "%-24s%s", model, "".join(f"{value:8.1f}" for value in row.values()))


def accuracies(correct: Sequence[int], total: Sequence[int]) -> MetricRecord:
    """Return accuracies in percent, over all classes and by group; many = classes with the most training samples."""
    groups = {"all": range(CLASSES), **GROUPS}
    return MetricRecord(
        {
            name: 100.0 * sum(int(correct[c]) for c in classes) / max(1, sum(int(total[c]) for c in classes))
            for name, classes in groups.items()
        }
    )
