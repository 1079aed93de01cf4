from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.stats import wilcoxon

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.bootstrap import paired_interval, share_interval
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
    assert difference.pairs == 2
    np.testing.assert_allclose(difference.cases, paired.mean(axis=0))
    assert difference.baseline == base
    ours, theirs = difference.means
    np.testing.assert_allclose(ours - theirs, paired.mean(axis=(0, 1)))
    np.testing.assert_allclose(theirs, table.values[base][[0, 2]].mean(axis=(0, 1)))
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


def test_one_set_of_segmentations_is_one_pair_with_the_mean_over_the_seeds():
    """Repeated for every seed it would look like so many trainings, and the interval would be too narrow."""
    table = Table()
    base = table.add("LabeledOnly", 4, ["0", "1", "2"], 0)
    peer = table.add("peer", 4, [""], 0.1)
    difference = table.results()[peer].difference
    assert difference.pairs == 1
    ours, theirs = table.values[peer][:, :, 0, 0], table.values[base][:, :, 0, 0].mean(axis=0, keepdims=True)
    assert difference.intervals[0][0] == pytest.approx(paired_interval(ours - theirs))


def test_one_seed_of_a_method_on_all_labels_is_one_pair():
    table = Table()
    base = table.add("LabeledOnly", "all", ["0", "1", "2"], 0)
    method = table.add("Better", "all", ["1"], 0.1)
    difference = table.results()[method].difference
    assert difference.pairs == 1
    paired = (table.values[method][0] - table.values[base][1])[None, :, 0, 0]
    assert difference.intervals[0][0] == pytest.approx(paired_interval(paired))


def test_all_labels_trained_once_are_one_pair_with_the_few():
    table = Table()
    base, full = table.add("LabeledOnly", 4, ["0", "1", "2"], 0), table.add("LabeledOnly", "all", ["0"], 0.2)
    difference = table.results()[full].difference
    assert difference.pairs == 1
    mean = table.values[full][0, :, 0, 0].mean() - table.values[base][..., 0, 0].mean()
    assert difference.intervals[0][0].mean == pytest.approx(mean)


@pytest.mark.parametrize("seeds", [["0", "1"], ["7", "8"], ["0"]])
def test_seeds_that_all_labels_lack_do_not_shrink_the_difference(seeds):
    """What a method brings is measured on all of its pairs; the share of the gap on those with a third, if any."""
    table, alone = Table(), Table()
    for each in (table, alone):
        base, method = each.add("LabeledOnly", 4, ["0", "1", "2"], 0), each.add("Better", 4, ["0", "1", "2"], 0.1)
    full = table.add("LabeledOnly", "all", seeds, 0.2)
    ours, expected = table.results()[method].difference, alone.results()[method].difference
    assert ours.pairs == 3
    assert ours.intervals == expected.intervals
    b, m, f = (table.values[name][..., 0, 0] for name in (base, method, full))
    if "7" in seeds:
        assert np.isnan(ours.share).all()
    else:
        used = slice(2 if len(seeds) == 2 else 3)
        assert ours.share == pytest.approx(share_interval((m - b)[used], f - b[used]))


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
