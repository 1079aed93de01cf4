from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.stats import wilcoxon

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.bootstrap import paired_interval
from nnunetv2_semisup.evaluation.comparison.rows import Row
from nnunetv2_semisup.evaluation.comparison.runs import BASELINE, Run, Training
from nnunetv2_semisup.evaluation.comparison.statistics import analyse

pytestmark = pytest.mark.fast
CASES = 12


@dataclass
class Table:
    """Rows with random values [seeds, cases, 2 structures, 4 metrics]."""

    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    rows: list = field(default_factory=list)
    values: dict = field(default_factory=dict)

    def add(self, method, labels, seeds, shift, spread=0.02):
        """A row whose mean is `shift` above 0.5."""
        trainer = BASELINE if method == "LabeledOnly" else f"nnUNetTrainer{method}"
        training = Training(trainer, "D", "0", (), (), (), labels, 1, {}, {}, "", None)
        external = method.islower()
        runs = {seed: (Run(method, method, None, None, None if external else training),) for seed in seeds}
        row = Row(method, labels, runs, ())
        self.rows.append(row)
        shape = (len(seeds), CASES, 2, 4)
        self.values[row.title] = 0.5 + shift + spread * self.generator.standard_normal(shape)
        return row.title

    def results(self):
        return {result.row.title: result for result in analyse(self.rows, self.values)}


def test_differences_are_taken_seed_by_seed_and_case_by_case():
    table = Table()
    base, method = table.add("LabeledOnly", 4, ["0", "1", "2"], 0), table.add("Better", 4, ["2", "0", "7"], 0.1)
    difference = table.results()[method].difference
    paired = table.values[method][[1, 0]] - table.values[base][[0, 2]]
    assert difference.seeds == 2
    assert difference.baseline == base
    for s, m in np.ndindex(2, 4):
        assert difference.intervals[s][m] == pytest.approx(paired_interval(paired[:, :, s, m]))
        assert difference.p[s, m] == wilcoxon(paired[:, :, s, m].mean(axis=0)).pvalue


def test_holms_correction_is_over_the_methods_and_not_over_the_reference():
    """By hand: sorted p times 3, 2, 1, never falling, at most 1."""
    table = Table()
    table.add("LabeledOnly", 4, ["0"], 0)
    names = [table.add("One", 4, ["0"], 0.1), table.add("Two", 4, ["0"], 0.015), table.add("peer", 4, [""], 0.0)]
    full = table.add("LabeledOnly", "all", ["0"], 0.2)
    results = table.results()
    p = [results[name].difference.p[0, 0] for name in names]
    order = np.argsort(p)
    expected = np.minimum(np.maximum.accumulate(np.array(p)[order] * [3, 2, 1]), 1)
    for rank, index in enumerate(order):
        assert results[names[index]].difference.p_holm[0, 0] == pytest.approx(expected[rank])
    assert results[full].difference.p_holm[0, 0] == results[full].difference.p[0, 0]


def test_equal_segmentations_differ_by_0_with_p_1():
    table = Table()
    base, method = table.add("LabeledOnly", 4, ["0"], 0), table.add("Same", 4, ["0"], 0)
    table.values[method] = table.values[base].copy()
    difference = table.results()[method].difference
    assert difference.intervals[0][0] == (0, 0, 0)
    assert (difference.p == 1).all()


def test_each_number_of_labels_has_its_own_baseline_and_the_share_its_gap():
    table = Table()
    names = {}
    for labels, base in ((4, 0.0), (8, 0.1)):
        table.add("LabeledOnly", labels, ["0", "1"], base, 0.001)
        names[labels] = table.add("Better", labels, ["0", "1"], base + 0.05, 0.001)
    table.add("LabeledOnly", "all", ["0"], 0.2, 0.001)
    results = table.results()
    assert results[names[4]].difference.intervals[0][0].mean == pytest.approx(0.05, abs=0.002)
    assert results[names[4]].difference.share.mean == pytest.approx(0.25, abs=0.01)
    assert results[names[8]].difference.share.mean == pytest.approx(0.5, abs=0.02)


def test_segmentations_without_a_seed_go_with_every_seed():
    table = Table()
    table.add("LabeledOnly", 4, ["0", "1", "2"], 0)
    peer = table.add("peer", 4, [""], 0.1)
    assert table.results()[peer].difference.seeds == 3


def test_spread_is_that_of_the_seeds():
    table = Table()
    base = table.add("LabeledOnly", 4, ["0", "1", "2"], 0)
    result = table.results()[base]
    np.testing.assert_allclose(result.deviation, table.values[base].mean(axis=1).std(axis=0, ddof=1))
    assert result.difference is None


def test_two_rows_that_could_be_the_baseline_are_refused():
    table = Table()
    table.add("LabeledOnly", 4, ["0"], 0)
    table.add("LabeledOnly", 4, ["1"], 0)
    with pytest.raises(SemiSupervisedError, match="could both be the baseline"):
        table.results()
