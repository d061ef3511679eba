import pytest

from espnet_dynsize.control.ramp import Ramp


def test_linear_between_points_and_constant_outside():
    ramp = Ramp([(10, 1.0), (20, 3.0), (40, 3.0), (50, 0.0)])
    given = [ramp(u) for u in (-5, 10, 15, 20, 30, 45, 50, 99)]
    assert given == [1.0, 1.0, 2.0, 3.0, 3.0, 1.5, 0.0, 0.0]


def test_a_jump_belongs_to_what_follows():
    ramp = Ramp([(0, 0.0), (5, 0.0), (5, 2.0)])
    assert [ramp(u) for u in (4, 5, 6)] == [0.0, 2.0, 2.0]


def test_steps_are_where_they_are_counted_in_whole_numbers():
    """As integers have it, whatever the division rounds to."""
    for length in range(1, 400):
        for parts in (1, 3, 7, 32):
            ramp = Ramp([(0, 0), (length, parts)])
            for update in range(length):
                assert ramp.step(update) == update * parts // length


@pytest.mark.parametrize("points", [[], [(3, 0.0), (2, 1.0)]])
def test_bad_points(points):
    with pytest.raises(ValueError, match="must be increasing"):
        Ramp(points)
