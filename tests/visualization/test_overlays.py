import base64
import io

import numpy as np
import pytest
from PIL import Image

from nnunetv2_semisup.visualization.overlays import PALETTE, Plane, overlay, telling_planes

pytestmark = pytest.mark.fast
AXIAL = Plane("axial", 0, 0)


def pixels(uri):
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), int)


def test_planes_show_the_most_structures_then_the_most_voxels():
    truth = np.zeros((6, 5, 4), int)
    truth[1] = 1
    truth[3, 2, :2], truth[3, 2, 2] = 1, 2
    truth[4, 4, 0], truth[4, 4, 1] = 1, 2
    assert telling_planes(truth) == [Plane("axial", 0, 3), Plane("coronal", 1, 2)]


def test_2d_images_have_one_slice():
    assert telling_planes(np.ones((1, 5, 4), int)) == [Plane("slice", 0, 0)]


def test_proportions_are_those_of_the_patient():
    volume = np.random.default_rng(0).random((10, 20, 30))
    assert pixels(overlay(volume, AXIAL, (5, 1, 1))).shape == (160, 240, 3)
    assert pixels(overlay(volume, Plane("coronal", 1, 3), (6, 1, 1))).shape == (240, 120, 3)


def test_coronal_slices_have_their_top_up():
    volume = np.zeros((4, 4, 4))
    volume[-1] = 1
    picture = pixels(overlay(volume, Plane("coronal", 1, 0), (1, 1, 1)))
    assert picture[5].mean() > 200
    assert picture[-5].mean() < 20


def test_filled_labels_are_coloured_and_the_rest_stays_grey():
    volume = np.zeros((1, 8, 8))
    volume[0, :, 4:] = 1
    labels = np.zeros((1, 8, 8), int)
    labels[0, :4, :4] = 2
    picture = pixels(overlay(volume, AXIAL, (1, 1, 1), filled=labels))
    np.testing.assert_allclose(picture[20, 20], np.array(PALETTE[1]) / 2, atol=1)
    np.testing.assert_array_equal(picture[200, 20], 0)
    np.testing.assert_array_equal(picture[200, 220], 255)


def test_outlines_are_white_at_the_border_only():
    labels = np.zeros((1, 8, 8), int)
    labels[0, 2:6, 2:6] = 1
    picture = pixels(overlay(np.zeros((1, 8, 8)), AXIAL, (1, 1, 1), outlined=labels))
    white = (picture == 255).all(-1)
    assert white[60, 60:180].all()
    assert not white[70:170, 70:170].any()
    assert not white[:59].any()


def test_more_labels_than_colours_and_a_constant_image():
    labels = np.arange(16).reshape(1, 4, 4)
    picture = pixels(overlay(np.full((1, 4, 4), 7.0), AXIAL, (1, 1, 1), filled=labels))
    np.testing.assert_array_equal(picture[30, 90], picture[150, 30])  # labels 1 and 8 of 7 colours
