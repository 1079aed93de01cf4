"""Which labelled cases are dense, and which sparse, and what is refused."""

from __future__ import annotations

import blosc2
import numpy as np
import pytest

from nnunetv2_semisup.data.annotation import (
    DENSE_FROM,
    Annotated,
    complete,
    labels_of,
    read_annotated,
    refuse_ignore_label,
    sort_by_annotation,
)
from nnunetv2_semisup.errors import SemiSupervisedError

pytestmark = pytest.mark.fast

IGNORE = 3


def write(folder, identifier, seg):
    """A preprocessed case as nnU-Net stores it."""
    blosc2.asarray(np.zeros(seg.shape, np.float32), urlpath=str(folder / f"{identifier}.b2nd"))
    blosc2.asarray(seg.astype(np.int16), urlpath=str(folder / f"{identifier}_seg.b2nd"))
    (folder / f"{identifier}.pkl").write_bytes(b"\x80\x04}\x94.")


def test_shares_are_of_the_voxels_inside_the_nonzero_region(tmp_path):
    seg = np.full((1, 4, 5, 5), IGNORE)
    seg[0, 0] = -1
    seg[0, 1] = 0
    seg[0, 1, 0] = 2
    write(tmp_path, "few", seg)
    write(tmp_path, "full", np.where(seg == IGNORE, 1, seg))
    write(tmp_path, "nothing", np.full((1, 4, 5, 5), IGNORE))
    found = read_annotated(tmp_path, ["few", "full", "nothing"], IGNORE)
    assert found == {
        "few": Annotated(25 / 75, frozenset({0, 2})),
        "full": Annotated(1.0, frozenset({0, 1, 2})),
        "nothing": Annotated(0.0, frozenset()),
    }
    assert labels_of(found, ["few", "full"]) == {0, 1, 2}


CASES = {
    "a": Annotated(1.0, frozenset({0, 1})),
    "b": Annotated(0.1, frozenset({0, 1})),
    "c": Annotated(DENSE_FROM, frozenset({0, 1})),
    "d": Annotated(DENSE_FROM - 0.01, frozenset({1})),
}


def test_the_share_decides():
    annotation = sort_by_annotation(CASES)
    assert annotation.sparse == ("b", "d")
    assert annotation.without_background == ("d",)
    assert annotation.shares == {name: case.share for name, case in CASES.items()}


def test_a_split_overrides_it():
    assert sort_by_annotation(CASES, ["d"], ["c"]).sparse == ("b", "c")
    assert sort_by_annotation(complete("xyz"), ["x"]).sparse == ()


def refused(pattern, *arguments):
    with pytest.raises(SemiSupervisedError, match=pattern) as error:
        sort_by_annotation(*arguments)
    assert "\n" not in str(error.value)


def test_what_is_refused():
    empty = CASES | {"e": Annotated(0.0, frozenset())}
    refused("labelled case e has no annotated voxel", empty)
    refused("names a sparse, but every voxel of it is annotated; .* sparsify", CASES, (), ["a"])
    refused("names x sparse", complete("xyz"), (), ["x"])
    sparse = {name: CASES[name] for name in "bd"}
    refused(r"no labelled case is annotated densely, in at least 90% of its voxels \(most has d, 89.0%\)", sparse)
    nearly = {name: CASES[name] for name in "bc"}
    refused("no labelled case is annotated densely", nearly, (), ["c"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "organ": 1, "ignore": 2}, None),
        ({"background": 0, "organ": 1}, None),
        ({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, None),
        ({"background": 0, "ignore": 1, "organ": 2}, "ignore: 1, .* here 3"),
        ({"background": 0, "organ": 1, "ignore": 255}, "ignore: 255, .* here 2"),
        ({"background": 0, "organ": 1, "ignore": [2]}, r"ignore: \[2\]"),
        ({"background": 0, "whole": [1, 2], "core": 2, "ignore": 2}, "ignore: 2, .* here 3"),
    ],
)
def test_an_ignore_label_that_is_not_the_integer_behind_the_highest_is_refused(labels, message):
    if message is None:
        refuse_ignore_label({"labels": labels})
        return
    with pytest.raises(SemiSupervisedError, match=message) as error:
        refuse_ignore_label({"labels": labels})
    assert "\n" not in str(error.value)
