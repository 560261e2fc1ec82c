"""The server side for any Flower project. Importing it loads neither torch nor the rest of this package.

>>> from fedpurel_app.strategies import FedPuReL, Schedule
>>> strategy = FedPuReL(schedule=Schedule(global_rounds=10, personal_rounds=10), seed=1)
"""

from fedpurel_app.core.phase import Phase
from fedpurel_app.core.site_scores import SiteScores, class_counts, pool_sites
from fedpurel_app.strategies.aggregation import Aggregation
from fedpurel_app.strategies.fedpurel import FedPuReL
from fedpurel_app.strategies.roster import Roster
from fedpurel_app.strategies.round_report import RoundReport
from fedpurel_app.strategies.schedule import Schedule

__all__ = [
    "Aggregation",
    "FedPuReL",
    "Phase",
    "Roster",
    "RoundReport",
    "Schedule",
    "SiteScores",
    "class_counts",
    "pool_sites",
]
