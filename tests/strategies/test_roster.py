from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedpurel_app.core.records import CONFIG, Description
from fedpurel_app.strategies import Roster
from tests.support import LocalGrid

app = ClientApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    config = context.run_config
    names, sizes = str(config["names"]).split(), str(config.get("sizes", "10 " * 20)).split()
    site = int(context.node_config["partition-id"])
    if names[site] == "boom":
        raise ValueError("no data here")
    record = Description(names[site], int(sizes[site]), 0, "cpu").to_config()
    return Message(RecordDict({CONFIG: record}), reply_to=message)


def grid(names, shuffle=0, client=app, **config):
    return LocalGrid(client, len(names.split()), {"names": names, **config}, shuffle=shuffle)


NAMES = "a b c d e f g h i j"


def test_cohorts_do_not_depend_on_node_ids():
    drawn = []
    for shuffle in range(3):
        roster = Roster()
        roster.refresh(grid(NAMES, shuffle), 1)
        drawn.append([roster.draw(seed=1, draw=d, fraction=0.4) for d in range(1, 6)])
    assert drawn[0] == drawn[1] == drawn[2]
    assert all(len(cohort) == 4 == len(set(cohort)) for cohort in drawn[0])


def test_cohorts_follow_seed_and_draw():
    roster = Roster()
    roster.refresh(grid(NAMES), 1)
    draws = {(seed, d): tuple(roster.draw(seed, d, 0.4)) for seed in (1, 2) for d in range(10)}
    assert len(set(draws.values())) > 15
    assert len({name for cohort in draws.values() for name in cohort}) == 10


def test_the_share_is_rounded_down_but_never_to_nobody():
    roster = Roster()
    roster.refresh(grid(NAMES), 1)
    assert [len(roster.draw(0, 1, share)) for share in (0.01, 0.29, 0.3, 0.7, 1.0)] == [1, 2, 3, 7, 10]


def test_an_absent_site_changes_no_draw():
    full, missing = Roster(), Roster()
    full.refresh(grid(NAMES), 1)
    missing.restore(full.state())
    missing.refresh(grid("a b c d e"), 1)
    assert missing.draw(0, 1, 0.4) == full.draw(0, 1, 0.4)
    assert missing.present == list("abcde") and missing.node("j") is None


def test_a_connected_site_keeps_its_name_and_a_second_one_is_left_out():
    roster, both = Roster(), grid("a a")
    first, second = list(both.contexts)
    nodes = [first]
    both.get_node_ids = lambda: nodes
    roster.refresh(both, 1)
    assert roster.node("a") == first
    nodes.append(second)
    (note,) = roster.refresh(both, 1)
    assert roster.node("a") == first and f"node {second} is left out" in note and f"as node {first} does" in note
    assert roster.site(first) == "a" and roster.site(second) is None


def test_a_site_that_comes_back_with_another_id_is_known_again():
    roster = Roster()
    roster.refresh(grid("a b", shuffle=0), 1)
    before = roster.node("a")
    assert roster.refresh(grid("a b", shuffle=5), 1) == []
    assert roster.node("a") != before and roster.names == ["a", "b"]


def test_nodes_that_fail_or_have_nothing_are_left_out_with_a_reason():
    roster = Roster()
    notes = roster.refresh(grid("a boom c", sizes="10 10 0"), 1)
    assert roster.names == ["a"]
    assert any("no data here" in note for note in notes) and any("no training images" in note for note in notes)
    assert roster.refresh(grid("a boom c", sizes="10 10 0"), 1) == []  # told once


def test_a_node_that_failed_is_asked_again_ever_more_rarely():
    roster, broken = Roster(), grid("a boom")
    asked: list[int] = []
    send = broken.send_and_receive

    def watched(messages, timeout=None):
        asked[-1] += 1
        return send(messages, timeout=timeout)

    broken.send_and_receive = watched
    for _ in range(20):
        asked.append(0)
        roster.refresh(broken, 1)
    assert [turn for turn, times in enumerate(asked, 1) if times] == [1, 2, 4, 8, 16]
    mended = grid("a b")
    assert roster.refresh(mended, 1, patient=False) == [] and roster.names == ["a", "b"]


def test_the_second_of_two_nodes_with_one_name_takes_over_when_the_first_leaves():
    roster, both = Roster(), grid("a a")
    first, second = sorted(both.contexts)
    roster.refresh(both, 1)
    (left,) = {first, second} - {roster.node("a")}
    del both.contexts[roster.node("a")]
    roster.refresh(both, 1)
    assert roster.node("a") == left and roster.site(left) == "a"


def test_a_client_that_cannot_describe_itself_takes_part_under_its_node_id():
    roster, plain = Roster(), grid("a b", client=ClientApp())
    notes = roster.refresh(plain, 1)
    assert roster.names == sorted(f"node-{node}" for node in plain.contexts) and len(notes) == 1
    assert roster.descriptions[roster.names[0]] is None


def test_nonsense_descriptions_are_left_out():
    odd = ClientApp()

    @odd.query("describe")
    def describe(message, context):
        record = Description("x", 1, 0, "cpu").to_config()
        record["num-examples"] = "many"
        return Message(RecordDict({CONFIG: record}), reply_to=message)

    roster = Roster()
    (note,) = roster.refresh(grid("a", client=odd), 1)
    assert roster.names == [] and "described itself" in note
