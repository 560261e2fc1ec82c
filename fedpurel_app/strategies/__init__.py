"""The server side for any Flower project. Importing it loads neither torch nor the rest of this package.

>>> from fedpurel_app.strategies import FedPuReL, Schedule
>>> strategy = FedPuReL(schedule=Schedule(global_rounds=10, personal_rounds=10), seed=1)

The client's contract
---------------------
Every message but a query carries two records, or more:

- ArrayRecord ``arrays``: the shared parameters. With a ``part``, a second one, ``brief``, in global rounds, whose
  clients must then remember (``keeps_state=True``), or in personal ones. Whoever saves ``state()`` saves
  ``part.state()`` with it.
- ConfigRecord ``method``, with a ``part`` that lays parameters out anew: how they are laid out (``home``: the block of
  each learned token), in messages of all kinds. Replies to ``train`` may have the lists of numbers that it asks for.
- ConfigRecord ``config``: what the user gave to ``start`` as ``train_config`` or ``evaluate_config``, Flower's
  ``server-round``, and ``phase`` ("global" or "personal"), ``round`` (of the schedule, from 1), ``experiment-id``,
  ``private-round``, ``simulation-dir``, ``attempt``, ``token`` and ``secret`` (see
  :class:`fedpurel_app.core.records.Instruction`), which take precedence.

============================ =======================================================================================
message                      reply
============================ =======================================================================================
``query.describe``           ConfigRecord ``config``: ``site`` (stable name: letters, digits, ".", "_" and "-"),
                             ``num-examples`` (at least 1), ``partitions`` (0 for data of its own), ``device``, and
                             if it likes ``test-examples``, ``validation-examples`` and ``edge``; or ``refusal``
                             ("attempt" or "policy") and ``reason``
``train``                    the same arrays, trained (names, shapes and types as sent; with a ``codec``, what its
                             ``shorten`` makes of them), and one MetricRecord with ``num-examples`` and any numbers,
                             of which means are reported
``train.personalize``        one MetricRecord with ``num-examples``, no arrays; the private branch stays at the
                             client, stamped ``round``, started from the one stamped ``private-round`` (0: none).
                             With ``personal_names``, also those arrays and no others, trained; ``train`` then has
                             neither their messages nor their replies
``evaluate``                 one MetricRecord with ``num-examples`` and correct and total counts of the models, in
                             all or by class: ``global/correct``, ``global/total``, ``personalized/...`` where there
                             is a branch, ``zero-shot/...`` if it likes; totals are equal and add up to
                             ``num-examples``; or ``scores-withheld`` = 1 alone. What may come beside them is told by
                             :mod:`fedpurel_app.core.detail_records` and, as ``pareto/...``, by
                             :mod:`fedpurel_app.core.fronts`; what does not come is not reported. All but that
                             a second time under names that begin with ``validation/``, of images kept for validation
============================ =======================================================================================

Records of a reply are found by their kind, not by their names. Replies are screened one by one (error, missing,
wrong names, shapes or types, NaN, a number of examples that is not credible, counts that do not fit each other,
unprintable text); a bad one is dropped with its reason and counted. A metric that fewer than half of them have as a
number is not reported; the others are means over the sites that have it. Good replies are aggregated in the order
of the site names, so the same replies give the same bits.

A client that knows less takes part as far as it can, and what it lacks is logged once, as a warning:

- no ``query.describe``: it is named ``node-<id>`` after Flower's node id. A restart of the run deals out other ids,
  so cohorts do not repeat; and its ``num-examples`` cannot be compared with what it said of itself.
- no ``train.personalize``: it is not asked again. The quorum of a personal round is one of those that can; a round
  in which nobody can does nothing and is no failed one.
- ``evaluate`` without counts: means of all numbers that every site sent are reported, weighted by examples, as
  FedAvg does. They are used where no site sends counts; otherwise these replies are dropped.
- no ``evaluate``: it is not asked again.
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
