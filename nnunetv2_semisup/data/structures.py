"""What a dataset's labels ask a network to segment."""

from __future__ import annotations

from typing import Any


def structures_of(labels: Any) -> list[Any]:
    """The classes but background, or the regions, of nnU-Net's label manager, in the order of its outputs."""
    return list(labels.foreground_regions if labels.has_regions else labels.foreground_labels)
