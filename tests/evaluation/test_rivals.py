"""The pre-trainings in benchmarks/rivals that BIM is compared with: nnU-Net finds them, and they learn."""

import pytest
import torch

from nnunetv2_semisup.configuration.sources import merged, preset
from tests.benchmarks import script
from tests.regularizers.toy_step import facts_of, network_of, random_views, step_of

pytestmark = pytest.mark.fast

RIVALS = {"dense_info_nce": "nnUNetTrainerDenseInfoNCE", "masked_reconstruction": "nnUNetTrainerMaskedReconstruction"}


def trainer_of(module: str) -> type:
    return getattr(script(module, "rivals"), RIVALS[module])


@pytest.mark.parametrize("module", RIVALS)
@pytest.mark.parametrize("dim", [2, 3])
def test_a_rival_learns_and_repeats_itself(module, dim):
    trainer = trainer_of(module)
    assert trainer.method() == "bimpretrain"
    (rival,) = trainer.regularizers

    def train() -> list[float]:
        network = network_of(dim)
        facts = facts_of(network, dim)
        values = merged(preset("bimpretrain"), {"boundary": {"weight": 0.0}})
        torch.manual_seed(0)
        regularizer = rival(rival.resolve(rival.Settings.parse(values, origin="test"), facts), facts)
        optimizer = torch.optim.AdamW([*network.parameters(), *regularizer.parameters()], lr=3e-3)
        losses = []
        for number in range(20):
            views = random_views(dim)[: len(regularizer.views)]
            outcome = regularizer(step_of(network, regularizer, views, number=number))
            assert outcome.terms.keys() == {name for name, weight in regularizer.weights.items() if weight > 0}
            assert outcome.signs.keys() == set(regularizer.sign_names)
            (loss,) = outcome.terms.values()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    losses = train()
    assert sum(losses[-5:]) < sum(losses[:5])
    assert train() == losses
