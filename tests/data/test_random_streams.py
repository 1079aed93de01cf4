from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunetv2_semisup.data.random_streams import RandomStreams, global_state, restore_global_state, seed_global

pytestmark = pytest.mark.fast


def draw() -> list[float]:
    """Numbers from all three global generators; the normals leave a cached second one behind."""
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.uniform()),
        float(np.random.standard_normal()),
        float(torch.rand(1)),
        float(torch.randn(1)),
    ]


def draw_from(streams: RandomStreams) -> list[float]:
    with streams.active():
        return draw()


def fail_in(streams: RandomStreams) -> None:
    with streams.active():
        draw()
        raise KeyError


def test_the_global_streams_go_on_as_if_nothing_had_been_drawn() -> None:
    seed_global(7)
    expected = [draw(), draw()]
    seed_global(7)
    streams = RandomStreams(1)
    first = draw()
    draw_from(streams)
    assert [first, draw()] == expected


def test_the_global_streams_come_back_after_an_exception() -> None:
    seed_global(7)
    expected = draw()
    seed_global(7)
    streams = RandomStreams(1)
    with pytest.raises(KeyError):
        fail_in(streams)
    assert draw() == expected


def test_what_was_drawn_before_an_exception_is_not_drawn_again() -> None:
    straight, broken = RandomStreams(1), RandomStreams(1)
    draw_from(straight)
    with pytest.raises(KeyError):
        fail_in(broken)
    assert draw_from(broken) == draw_from(straight)


def test_a_seed_fixes_the_numbers_whatever_the_global_seed() -> None:
    seed_global(1)
    first, second = RandomStreams(5), RandomStreams(5)
    numbers = [draw_from(first), draw_from(first)]
    seed_global(2)
    assert [draw_from(second), draw_from(second)] == numbers
    assert draw_from(RandomStreams(6)) != numbers[0]


def test_without_a_seed_the_operating_system_decides() -> None:
    seed_global(1)
    first = draw_from(RandomStreams(None))
    seed_global(1)
    assert draw_from(RandomStreams(None)) != first


def test_spawned_streams_differ_by_key_and_by_call_and_repeat_by_seed() -> None:
    def family() -> list[list[float]]:
        parent = RandomStreams(3)
        children = [parent.spawn(0), parent.spawn(0)]
        grandchildren = [children[0].spawn(key) for key in (0, 1)]
        return [draw_from(streams) for streams in (parent, *children, *grandchildren)]

    numbers = family()
    assert len({tuple(drawn) for drawn in numbers}) == len(numbers)
    assert family() == numbers


def test_the_state_survives_a_safe_checkpoint_exactly(tmp_path: Path) -> None:
    streams = RandomStreams(11)
    draw_from(streams)
    torch.save(streams.state_dict(), tmp_path / "state.pt")
    expected = [draw_from(streams), draw_from(streams)]
    resumed = RandomStreams(None)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draw_from(resumed), draw_from(resumed)] == expected


def test_a_taken_state_does_not_move_with_the_streams() -> None:
    streams = RandomStreams(11)
    state = streams.state_dict()
    expected = draw_from(streams)
    again = RandomStreams(0)
    again.load_state_dict(state)
    assert draw_from(again) == expected
    again.load_state_dict(state)
    assert draw_from(again) == expected


def test_the_global_streams_survive_a_safe_checkpoint_exactly(tmp_path: Path) -> None:
    seed_global(3)
    draw()
    torch.save(global_state(), tmp_path / "state.pt")
    expected = draw()
    seed_global(4)
    restore_global_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected
    seed_global(3)
    assert draw() != expected
