"""Mixed patches for methods that learn from pseudo-labels: settings, and the draw of one step."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nnunetv2_semisup.configuration.settings import Section, Share
from nnunetv2_semisup.data.mixing import Mix, draw_mix
from nnunetv2_semisup.regularizers.base import Step


class MixingSettings(Section):
    """Boxes of other patches in the patches that the network learns from."""

    share: Share = Field(description="Share of the unlabelled patches that are mixed. 0: no mixing.")
    exchange: Share = Field(
        description="Share of the mixed patches whose partner is a labelled one, with its labels (BCP); the others "
        "get a box of another unlabelled patch (CutMix)."
    )
    edge: Annotated[float, Field(gt=0, lt=1)] = Field(description="Edges of the box as a share of the patch's.")

    def draw(self, step: Step) -> Mix:
        """Of the unlabelled batch of this step with itself and with the labelled one."""
        assert step.labeled is not None  # trains beside supervised training only
        images = step.views[0]
        return draw_mix(
            len(images),
            len(step.labeled.images),
            images.shape[2:],
            step.generator,
            images.device,
            share=self.share,
            exchange=self.exchange,
            edge=self.edge,
        )
