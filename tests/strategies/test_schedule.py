import pytest

from fedpurel_app.strategies import Phase, Schedule

G, P = Phase.GLOBAL, Phase.PERSONAL


def test_two_phases():
    schedule = Schedule(3, 2)
    rounds = range(1, schedule.total + 1)
    assert [schedule.phase(r) for r in rounds] == [G, G, G, P, P]
    assert [schedule.phase_round(r) for r in rounds] == [1, 2, 3, 1, 2]
    assert [schedule.draw(r) for r in rounds] == [1, 2, 3, 4, 5]


def test_interleaved_rounds_come_in_pairs_with_one_cohort():
    schedule = Schedule(2, 2, "interleaved")
    rounds = range(1, schedule.total + 1)
    assert [schedule.phase(r) for r in rounds] == [G, P, G, P]
    assert [schedule.phase_round(r) for r in rounds] == [schedule.draw(r) for r in rounds] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("schedule", "every", "evaluated"),
    [
        (Schedule(5, 4), 2, [2, 4, 5, 7, 9]),
        (Schedule(3, 0), 10, [3]),
        (Schedule(0, 3), 2, [2, 3]),
        (Schedule(3, 3, "interleaved"), 2, [4, 6]),
    ],
)
def test_the_last_round_of_a_phase_is_always_evaluated(schedule, every, evaluated):
    assert [r for r in range(1, schedule.total + 1) if schedule.is_evaluated(r, every)] == evaluated


@pytest.mark.parametrize(
    ("arguments", "part"), [((0, 0), "nothing to do"), ((2, 1, "interleaved"), "one personal"), ((1, 1, "x"), "choose")]
)
def test_impossible_schedules_are_refused(arguments, part):
    with pytest.raises(ValueError, match=part):
        Schedule(*arguments)
