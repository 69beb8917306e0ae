"""my-grid places as many levels as it should, in order, on every schedule, and samplers converge on it."""

import itertools

import pytest
from my_grid import MyGrid

import samplerbench as sb

SCHEDULES = {"VP": sb.vp_linear(), "EDM": sb.edm(), "flow": sb.flow()}


@pytest.mark.parametrize("steps", [2, 3, 10, 100])
@pytest.mark.parametrize("name", SCHEDULES)
def test_times_descend_from_the_noisiest_to_the_cleanest(name: str, steps: int) -> None:
    schedule = SCHEDULES[name]
    times = MyGrid().times(schedule, steps)
    assert len(times) == steps
    assert all(later < earlier for earlier, later in itertools.pairwise(times))
    assert (times[0], times[-1]) == (schedule.first.t, schedule.last.t)


@pytest.mark.parametrize("name", ["mixture:vp", "mixture:edm", "mixture:flow"])
def test_more_steps_come_closer_to_the_solution(name: str) -> None:
    model = sb.load_model(name)  # known in closed form

    def draw(steps: int) -> sb.Samples:
        return sb.sample(model, "dpm-solver++", grid=MyGrid().times(model.schedule, steps), n=16)

    few, many, solution = draw(20), draw(80), draw(320)
    assert (many.x - solution.x).square().mean() < 0.3 * (few.x - solution.x).square().mean()


def test_an_option_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a positive number"):
        MyGrid(power=0)
