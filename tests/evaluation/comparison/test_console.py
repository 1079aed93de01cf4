"""The command on copies of real trainings: what it prints, where, and its exit status."""

from nnunetv2_semisup.cli.main import main


def test_a_comparison_at_the_console(lab, tmp_path, capsys):
    runs = [lab.run(errors=0.4), lab.run("EntropyMin", errors=0.2), lab.segmentations("peer")]
    (runs[2] / "labeled_005.nii.gz").unlink()
    out = tmp_path / "report"
    assert main(["compare", *map(str, runs), "-o", str(out)]) == 0
    printed, complaints = capsys.readouterr()
    assert printed.startswith(f"Open {out / 'index.html'}\n")
    assert [line.split(",")[0] for line in printed.splitlines()[2:]] == ["LabeledOnly", "EntropyMin"]
    assert "refused: peer: " in complaints
    assert "lacks 1 of the segmentations, e.g. labeled_005.nii.gz" in complaints
    assert "note: Fewer than 3 seeds, or pairs of seeds with LabeledOnly: LabeledOnly, 2 labels (1)" in complaints
    assert sorted(file.name for file in out.iterdir()) == [
        "cases.csv", "index.html", "refused.csv", "structures.csv", "table.csv", "table.tex",
    ]  # fmt: skip

    assert main(["compare", *map(str, runs), "-o", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"error: {out} exists already; remove it or give another name with -o")
