"""Settings are typed; a refusal names the key, the value and what is allowed."""

import json

import pytest

from nnunetv2_semisup.configuration.settings import Settings, allowed_keys, allowed_values
from nnunetv2_semisup.configuration.sources import merged, preset, settings_for
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.methods import methods, trainer_class

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training": {"num_epochs": 0}}, "training.num_epochs = 0 is not allowed; allowed is an integer >= 1 or"),
        ({"training": {"num_epochs": 2.5}}, "training.num_epochs = 2.5"),
        ({"training": {"num_epochs": True}}, "training.num_epochs = True"),
        ({"training": {"initial_lr": float("nan")}}, "training.initial_lr = nan"),
        ({"training": {"epochs": 3}}, "unknown setting training.epochs; known are: training.num_epochs"),
        ({"trainig": {}}, "unknown setting trainig"),
        ({"training": 3}, "training is a section"),
        ({"data": {"split": 7}}, "data.split = 7 is not allowed; allowed is a text or none"),
        ({"schedule": {"warmup": 1.5}}, "schedule.warmup = 1.5 is not allowed; allowed is a number >= 0 and <= 1"),
        ({"mi": {"head": "cnn"}}, "mi.head = 'cnn' is not allowed; allowed is 'linear' or 'mlp'"),
        ({"mi": {"radius": [1, 9, 1]}}, "mi.radius"),
        ({"mi": {"taps": [0]}}, "mi.shares needs one number per entry of mi.taps"),
        ({"teacher": {"decay": 1.0}}, "teacher.decay = 1.0 is not allowed; allowed is a number >= 0 and < 1"),
    ],
)
def test_refusals_are_one_line_with_key_value_and_range(values, message):
    model = trainer_class("nnUNetTrainerMIReg").settings_model()
    with pytest.raises(SemiSupervisedError) as error:
        model.parse(merged(preset("mireg"), values), origin="plans")
    assert message in str(error.value)
    assert str(error.value).startswith("plans: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", sorted(methods()))
def test_every_preset_is_complete_and_survives_json(method):
    model = trainer_class(methods()[method]).settings_model()
    settings = model.parse(preset(method), origin="preset")
    again = model.parse(json.loads(json.dumps(settings.model_dump())), origin="json")
    assert again == settings


@pytest.mark.parametrize("method", sorted(methods()))
def test_every_key_is_described_and_its_values_are_in_words(method):
    model = trainer_class(methods()[method]).settings_model()
    for key, description in allowed_keys(model).items():
        assert description, key
        assert allowed_values(model, key)


def test_a_section_overrides_the_preset_and_the_rest_stays():
    model = trainer_class("nnUNetTrainerMIReg").settings_model()
    section = {"semisup": {"method": "mireg", "mi": {"clusters": 7}, "training": {"seed": 3}}}
    settings = settings_for(model, "mireg", {"plans_name": "p", **section})
    assert settings.mi.clusters == 7
    assert settings.training.seed == 3
    assert settings.consistency.weight == preset("mireg")["consistency"]["weight"]


def test_a_section_of_another_method_is_refused():
    with pytest.raises(SemiSupervisedError, match=r"settings for 'mireg'.*trainer is 'labeledonly'.*plan -d D"):
        settings_for(Settings, "labeledonly", {"plans_name": "p", "semisup": {"method": "mireg"}})
