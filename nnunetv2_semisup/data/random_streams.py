"""Random numbers of our own, beside the global streams that nnU-Net draws from.

batchgeneratorsv2's transforms take their numbers from Python's, NumPy's and torch's global generators. So that
the unlabelled batches do not disturb the labelled ones, we run the transforms on states of our own and put the
global ones back afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch


class _States(NamedTuple):
    """What `random.getstate`, `numpy.random.get_state` and `torch.get_rng_state` return."""

    python: Any
    numpy: Any
    torch: torch.Tensor


def _read_global() -> _States:
    return _States(random.getstate(), np.random.get_state(), torch.get_rng_state())


def _write_global(states: _States) -> None:
    random.setstate(states.python)
    np.random.set_state(states.numpy)
    torch.set_rng_state(states.torch)


def _states_from(sequence: np.random.SeedSequence) -> _States:
    """The three generators get independent seeds: MT19937 stands behind all of them."""
    for_python, for_numpy, for_torch = (int(word) for word in sequence.generate_state(3, np.uint32))
    return _States(
        random.Random(for_python).getstate(),
        np.random.RandomState(for_numpy).get_state(),
        torch.Generator().manual_seed(for_torch).get_state(),
    )


class RandomStreams:
    """States of Python's `random`, NumPy's global generator and torch's CPU generator that belong to us."""

    def __init__(self, seed: int | None) -> None:
        """An integer `seed` >= 0 makes the streams reproducible; None takes entropy from the operating system."""
        self._states = _states_from(np.random.SeedSequence(seed))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block the global generators run on our states; the global states come back untouched."""
        outside = _read_global()
        _write_global(self._states)
        try:
            yield
        finally:
            self._states = _read_global()
            _write_global(outside)

    def spawn(self, key: int = 0) -> RandomStreams:
        """New streams, derived from these and from `key` (>= 0); these move on, so that no call repeats another."""
        with self.active():
            entropy = [int(word) for word in np.random.randint(0, 2**32, size=4, dtype=np.uint32)]
        child = RandomStreams.__new__(RandomStreams)
        child._states = _states_from(np.random.SeedSequence([*entropy, key]))
        return child

    def state_dict(self) -> dict[str, Any]:
        """The states as plain numbers, lists and tensors, which `torch.load(weights_only=True)` reads."""
        version, words, gauss_next = self._states.python
        _, keys, position, has_gauss, cached_gaussian = self._states.numpy
        return {
            "python": [version, list(words), gauss_next],
            "numpy": [torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached_gaussian)],
            "torch": self._states.torch.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        version, words, gauss_next = state["python"]
        keys, position, has_gauss, cached_gaussian = state["numpy"]
        self._states = _States(
            (version, tuple(words), gauss_next),
            ("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached_gaussian),
            state["torch"].clone(),
        )


def global_state() -> dict[str, Any]:
    """The global generators' states, in the form of `RandomStreams.state_dict`: for a checkpoint."""
    snapshot = RandomStreams.__new__(RandomStreams)
    snapshot._states = _read_global()
    return snapshot.state_dict()


def restore_global_state(state: dict[str, Any]) -> None:
    """Let the global generators go on where `global_state` was taken."""
    snapshot = RandomStreams.__new__(RandomStreams)
    snapshot.load_state_dict(state)
    _write_global(snapshot._states)


def seed_global(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (torch's on every device)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
