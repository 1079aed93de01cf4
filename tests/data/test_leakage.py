import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_semisup.data.leakage import content_hash, equal_content, known_voxels, stamp, voxel_hash
from nnunetv2_semisup.data.workers import Workers
from tests.data.copies import noise, write_image

pytestmark = pytest.mark.fast


@pytest.fixture
def workers():
    with Workers(1) as workers:
        yield workers


def write(folder, **contents):
    files = {}
    for name, channels in contents.items():
        files[name] = tuple(str(folder / f"{name}_{index:04d}") for index in range(len(channels)))
        for file, content in zip(files[name], channels, strict=True):
            with open(file, "wb") as stream:
                stream.write(content)
    return files


def test_equal_content_finds_what_comparing_every_pair_finds(tmp_path):
    rng = np.random.default_rng(0)
    contents = {
        f"case{index:02d}": [bytes(rng.integers(0, 2, rng.integers(1, 4)).tolist()) for _ in range(2)]
        for index in range(40)
    }
    known = {name: contents[name] for name in list(contents)[:10]}
    cases = {name: contents[name] for name in list(contents)[10:]}
    expected = {}
    for position, (name, content) in enumerate(cases.items()):
        equals = [other for other in known if known[other] == content]
        equals += [f"the unlabelled case {other}" for other in list(cases)[:position] if cases[other] == content]
        if equals:
            expected[name] = equals[0]
    files = write(tmp_path, **contents)
    found = equal_content({name: files[name] for name in cases}, {name: files[name] for name in known}, 2)
    assert expected
    assert found == expected


def test_cases_that_share_a_channel_are_not_equal(tmp_path):
    files = write(tmp_path, a=[b"same", b"own1"], b=[b"same", b"own2"])
    assert equal_content(files, {}, 1) == {}


def test_large_files_that_differ_anywhere_are_told_apart(tmp_path):
    content = np.random.default_rng(0).bytes(1 << 20)
    changed = {f"at{place}": [content[:place] + b"changed" + content[place + 7 :]] for place in (0, 100_000, 900_000)}
    files = write(tmp_path, original=[content], **changed, twin=[content])
    assert equal_content(files, {}, 2) == {"twin": "the unlabelled case original"}


def test_only_files_that_look_alike_are_read_as_a_whole(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    files = write(tmp_path, **{name: [rng.bytes(size)] for name, size in (("a", 500), ("b", 500), ("c", 600))})
    monkeypatch.setattr("nnunetv2_semisup.data.leakage.content_hash", lambda _: pytest.fail("read as a whole"))
    assert equal_content(files, {}, 1) == {}


def test_content_hash_tells_where_one_file_ends(tmp_path):
    files = write(tmp_path, a=[b"12", b"3"], b=[b"1", b"23"], c=[b"12", b"3"])
    hashes = {name: content_hash(case) for name, case in files.items()}
    assert hashes["a"] == hashes["c"] != hashes["b"]
    assert stamp(files["a"])[0] == 3


def test_the_spacing_beside_a_tiff_belongs_to_it(tmp_path):
    tiff = (str(tmp_path / "a_0000.tif"),)
    Path(tiff[0]).write_bytes(b"x")
    found = [(content_hash(tiff), stamp(tiff)[0])]
    for spacing in ("[1,1,1]", "[1,1,2]"):
        (tmp_path / "a.json").write_text(spacing)
        found.append((content_hash(tiff), stamp(tiff)[0]))
    assert len({content for content, _ in found}) == 3
    assert [size for _, size in found] == [1, 8, 8]
    os.utime(tmp_path / "a.json", (0, 4e9))
    assert stamp(tiff)[1] == 4e9


def test_voxel_hash_follows_values_and_shape():
    image = noise(0, (1, 4, 6, 8)).astype(np.float32)
    other = image.copy()
    other[0, 1, 2, 3] += 1e-3
    assert voxel_hash(image) == voxel_hash(np.asfortranarray(image))
    assert len({voxel_hash(image), voxel_hash(other), voxel_hash(image.reshape(1, 6, 4, 8))}) == 3


def test_known_voxels_see_through_name_header_and_compression_and_are_kept(tmp_path, workers, capsys):
    one, two, broken = (tmp_path / f"{name}.nii.gz" for name in ("one", "two", "broken"))
    write_image(one, noise(1))
    write_image(two, noise(2))
    broken.write_bytes(b"x")
    again = sitk.ReadImage(str(one))
    again.SetSpacing((9, 9, 9))
    sitk.WriteImage(again, str(tmp_path / "renamed.nrrd"))
    images = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "renamed.nrrd")))[None].astype(np.float32)

    cases = {"case one": (str(one),), "case two": (str(two),), "case broken": (str(broken),)}
    cache = tmp_path / "cache.json"
    known = known_voxels(cases, "SimpleITKIO", cache, workers)
    assert set(known.values()) == {"case one", "case two"}
    assert capsys.readouterr().err.count("case broken could not be read: unlabelled copies of it go unnoticed") == 1
    assert known[voxel_hash(images)] == "case one"

    # The second call reads what changed and nothing else: with the same stamp, a file may hold anything.
    state = one.stat()
    one.write_bytes(b"x" * state.st_size)
    os.utime(one, ns=(state.st_atime_ns, state.st_mtime_ns))
    write_image(two, noise(3, (4, 4, 4)))
    later = known_voxels(cases, "SimpleITKIO", cache, workers)
    assert later[voxel_hash(images)] == "case one"
    assert set(later) & set(known) == {voxel_hash(images)}
    assert voxel_hash(noise(3, (1, 4, 4, 4)).astype(np.float32)) in later
