"""Settings of the EMA teacher, for every method that has one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nnunetv2_semisup.configuration.settings import Section


class EMATeacherSettings(Section):
    """An exponential moving average of the network's weights."""

    decay: Annotated[float, Field(ge=0, lt=1)] = Field(description="Decay of the EMA teacher.")
