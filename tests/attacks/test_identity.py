"""A site's name belongs to the key that first had it, where Flower knows which key a node has."""

import json

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from fedpurel_app.core.errors import AttemptError, RunError
from fedpurel_app.core.records import CONFIG, Refusal
from fedpurel_app.strategies import FedPuReL, Roster, Schedule
from tests.attacks.test_replies import honest
from tests.support import LocalGrid


class Registered(LocalGrid):
    """A grid that knows the nodes' keys, and what their SuperLink's operator registered them as.

    Parameters
    ----------
    sites : list of str
        What each node calls itself.
    keys : list of (bytes, str)
        Public key and registered name of each; an empty name: nobody registered it.
    """

    def __init__(self, sites, keys, shuffle=0):
        super().__init__(honest(lambda site: sites[site]), len(sites), {}, shuffle=shuffle)
        self.keys = keys

    def get_nodes(self):
        for (key, name), node in zip(self.keys, self.contexts, strict=True):
            info = NodeInfo(node_id=node, public_key=key)
            if name:
                info.name = name
            yield info


A, B = (b"key a", "hospital-a"), (b"key b", "hospital-b")
THIEF = (b"key of a thief", "thief")


def nodes(grid):
    return list(grid.contexts)


def test_a_second_key_that_claims_a_name_is_left_out_and_the_first_goes_on():
    roster, grid = Roster(), Registered(["a", "b", "a"], [A, B, THIEF])
    notes = roster.refresh(grid, 1)
    assert roster.names == ["a", "b"] and [roster.node(name) for name in "ab"] == nodes(grid)[:2]
    assert len(notes) == 1 and 'which is the name of the node registered as "hospital-a"' in notes[0]


@pytest.mark.parametrize("key", [THIEF, (b"key of a thief", ""), (b"", "")])
def test_not_even_while_the_first_is_away(key):
    roster = Roster()
    roster.refresh(Registered(["a", "b"], [A, B]), 1)
    assert roster.refresh(Registered(["a", "b"], [key, B], shuffle=3), 1)
    assert roster.present == ["b"]
    assert roster.refresh(Registered(["a", "b"], [A, B], shuffle=5), 1, patient=False) == []
    assert roster.present == ["a", "b"]


def test_a_resumed_run_knows_whose_the_names_are():
    def strategy():
        return FedPuReL(Schedule(1, 0), num_sites=0, fraction_train=1.0, connect_timeout=0.0)

    first = strategy()
    first.connect(Registered(["a", "b"], [A, B]))
    state = json.loads(json.dumps(first.state()))
    second = strategy()
    second.restore(state)
    second.connect(Registered(["a", "b"], [THIEF, B], shuffle=9))
    assert second.roster.present == ["b"] and second.roster.names == ["a", "b"]


def test_the_operator_may_give_a_name_a_new_key():
    """A key that was lost is registered anew under the name it had: whoever may register keys vouches for it."""
    roster = Roster()
    roster.refresh(Registered(["a"], [A]), 1)
    (note,) = roster.refresh(Registered(["a"], [(b"a new key", "hospital-a")], shuffle=2), 1)
    assert roster.present == ["a"] and "another key than before" in note


def test_nodes_that_nobody_registered_draw_a_key_at_each_start_and_come_back_all_the_same():
    roster = Roster()
    roster.refresh(Registered(["a", "b"], [(b"1", ""), (b"2", "")]), 1)
    assert roster.refresh(Registered(["a", "b"], [(b"3", ""), (b"4", "")], shuffle=4), 1) == []
    assert roster.present == ["a", "b"]


def test_a_grid_that_cannot_say_costs_nothing(caplog):
    class Broken(Registered):
        def get_nodes(self):
            raise ConnectionError("away")

    roster = Roster()
    roster.refresh(Broken(["a"], [A]), 1)
    assert roster.present == ["a"] and "could not be asked for" in caplog.text


# --- refusals ---------------------------------------------------------------------------------------------------------


def refusing(count, answer, sites=5):
    """Make a federation of which the first sites answer something else to the question who they are."""

    def spy(message, reply):
        return answer(message) if message.metadata.dst_node_id // 7919 <= count else None

    return LocalGrid(honest(), sites, {}, spy=spy)


def refusal(kind):
    return lambda message: Message(RecordDict({CONFIG: Refusal(kind, "not for you").to_config()}), reply_to=message)


def connect(grid):
    strategy = FedPuReL(Schedule(1, 0), num_sites=0, fraction_train=1.0, connect_timeout=0.0)
    strategy.connect(grid)
    return strategy.roster.present


def test_a_few_sites_that_refuse_cannot_keep_a_run_from_starting():
    assert len(connect(refusing(2, refusal("attempt")))) == 3


@pytest.mark.parametrize(("kind", "error"), [("attempt", AttemptError), ("policy", RunError)])
def test_a_run_that_most_sites_refuse_does_not_start(kind, error):
    with pytest.raises(error, match="3 of 5 sites refuse this run"):
        connect(refusing(3, refusal(kind)))


def test_words_in_an_error_decide_nothing():
    """One raised error with "AttemptError" in it kept a run from starting once."""
    grid = refusing(1, lambda message: Message(Error(code=2, reason="AttemptError: no"), reply_to=message), 2)
    assert len(connect(grid)) == 1
