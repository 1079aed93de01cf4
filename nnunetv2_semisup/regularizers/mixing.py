"""Mixed patches for methods that learn from pseudo-labels: settings, and the draw of one step."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from nnunetv2_semisup.configuration.settings import Section, Share
from nnunetv2_semisup.data.mixing import Mix, draw_mix
from nnunetv2_semisup.regularizers.base import Facts, Step

MOSTLY = 0.5
"""Share of annotated voxels from which a labelled patch may lend a box: voxels without a label teach nothing there."""


class MixingSettings(Section):
    """Boxes of other patches in the patches that the network learns from."""

    share: Share = Field(description="Share of the unlabelled patches that are mixed. 0: no mixing.")
    exchange: Share = Field(
        description="Share of the mixed patches whose partner is a labelled one, with its labels (BCP), most of whose "
        "voxels are annotated; the others get a box of another unlabelled patch (CutMix)."
    )
    edge: Annotated[float, Field(gt=0, lt=1)] = Field(description="Edges of the box as a share of the patch's.")

    def draw(self, facts: Facts, step: Step) -> Mix:
        """Of the unlabelled batch of this step with itself and with the labelled one."""
        assert step.labeled is not None  # trains beside supervised training only
        images = step.views[0]
        return draw_mix(
            len(images),
            mostly_annotated(facts, step.labeled.target),
            images.shape[2:],
            step.generator,
            images.device,
            share=self.share,
            exchange=self.exchange,
            edge=self.edge,
        )


def mostly_annotated(facts: Facts, target: Tensor) -> list[int]:
    """Rows of nnU-Net's target [B, ...] at full resolution of which at least a share MOSTLY bears a label."""
    if facts.ignore_label is None:  # all of them; on a GPU the question would wait for the device
        return list(range(len(target)))
    shares = facts.known(target, facts.n_structures).float().flatten(1).mean(dim=1)
    return [row for row, share in enumerate(shares.tolist()) if share >= MOSTLY]
