"""The pretended GPU refuses what a GPU refuses, and lets pass what a GPU lets pass."""

import copy

import pytest
import torch
from torch import nn

from tests.pretended_gpu import GPU, pretended_gpu


@pytest.fixture
def gpu():
    with pretended_gpu() as gpu:
        yield gpu


def test_moving_copies_and_says_where(gpu):
    host = torch.ones(3)
    there = host.to("cuda")
    there += 1
    assert (host.device.type, there.device, there.is_cuda, host.is_cuda) == ("cpu", GPU, True, False)
    assert there.to(GPU) is there
    assert gpu.holds(host.to(there))
    assert gpu.holds(host.to(GPU, torch.float64, non_blocking=True))
    back = there.half().cpu()
    assert not gpu.holds(back)
    assert (host.tolist(), back.numpy().tolist(), back.dtype) == ([1, 1, 1], [2, 2, 2], torch.float16)


def test_results_views_copies_and_gradients_stay_there(gpu):
    network = nn.Linear(3, 2).to("cuda")
    assert all(gpu.holds(parameter) for parameter in copy.deepcopy(network).parameters())
    with torch.autocast("cuda"):
        output = network(torch.ones(4, 3, device="cuda"))
    assert output.dtype == torch.float16
    output.float()[1:].square().sum().backward()
    assert gpu.holds(output.T)
    assert all(gpu.holds(parameter.grad) for parameter in network.parameters())


@pytest.mark.parametrize(
    "mix",
    [
        lambda here, there: here + there,
        lambda here, there: torch.where(here > 0, there, 0.0),
        lambda here, there: torch.cat([here.sum()[None], there]),
        lambda here, there: torch.stack([here.sum(), there.sum()]),
        lambda here, there: here[there > 0],
        lambda here, there: nn.functional.mse_loss(there, here),
        lambda here, there: there.uniform_(generator=torch.Generator()),
        lambda here, there: torch.rand(3, device=there.device, generator=torch.Generator()),
        lambda here, there: nn.functional.linear(here, there[None]),
    ],
)
def test_both_sides_together_are_refused(gpu, mix):
    here = torch.ones(3)
    with pytest.raises(RuntimeError):
        mix(here, here.to("cuda"))
    mix(here, here)


def test_what_a_gpu_allows(gpu):
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    there.copy_(here)
    there[:2] = here[:2]
    assert float(there[here > 0].sum() + torch.tensor(1.0)) == 4
    with pytest.raises(TypeError, match=r"Tensor\.cpu\(\)"):
        there.numpy()


def test_nothing_is_left_behind():
    before = torch.load, torch.autocast.__init__, torch.autograd.backward
    with pretended_gpu():
        pass
    assert (torch.load, torch.autocast.__init__, torch.autograd.backward) == before
    with torch.autocast("cpu"):
        assert nn.Linear(3, 2)(torch.ones(1, 3)).dtype == torch.bfloat16
