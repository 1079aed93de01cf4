"""What a benchmark ends with: its table on standard output, and as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def publish(rows: Sequence[Mapping[str, object]], output: Path | None) -> None:
    """Print rows with the same columns as Markdown; write them to a file where there is one."""
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")
    if output is not None:
        with output.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
