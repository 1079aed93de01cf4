"""Typed settings: what may be set, in which range, and how a refusal reads."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnunetv2_semisup.errors import SemiSupervisedError

Auto = Literal["auto"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A group of settings. Unknown keys, other types and values out of range are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TrainingSettings(Section):
    """Length, learning rate and seed of a training; "auto" is what the nnU-Net trainer itself says."""

    num_epochs: Count | Auto = Field("auto", description="Number of epochs (nnU-Net: 1000).")
    num_iterations_per_epoch: Count | Auto = Field("auto", description="Training steps an epoch (nnU-Net: 250).")
    num_val_iterations_per_epoch: Count | Auto = Field(
        "auto", description="Validation steps an epoch, for the pseudo Dice (nnU-Net: 50)."
    )
    initial_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Auto = Field(
        "auto", description="Initial learning rate of nnU-Net's optimiser (nnU-Net: 0.01)."
    )
    lr_warmup_epochs: Annotated[int, Field(ge=0)] = Field(
        0, description="Epochs in which the learning rate grows linearly to its schedule (nnU-Net: 0)."
    )
    save_every: Count | Auto = Field("auto", description="Epochs between checkpoint_latest (nnU-Net: 50).")
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        None,
        description="Seed of weights, batches and draws. On CPU with nnUNet_n_proc_DA=0 the same seed gives the same "
        "numbers. None: not seeded, as in nnU-Net.",
    )


class DataSettings(Section):
    """Which cases are used."""

    split: str | None = Field(
        None,
        description="Name of a split file made by `nnUNetv2_semisup split` (splits_NAME.json). None: every training "
        "case of nnU-Net's own fold is labelled.",
    )
    batch_size: Count | Auto = Field(
        "auto",
        description='Unlabelled cases a step. "auto": as many gradient-carrying patches as the labelled batch has.',
    )


class Settings(Section):
    """Settings that every method accepts, LabeledOnly included."""

    training: TrainingSettings = TrainingSettings()
    data: DataSettings = DataSettings()

    @classmethod
    def parse(cls, values: dict[str, Any], origin: str) -> Self:
        """Validate nested values as they come from TOML or JSON.

        `origin` names where they come from in the message. Raises SemiSupervisedError with the key, the value and
        what is allowed.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SemiSupervisedError(f"{origin}: {_refusal(cls, error)}") from None


class ScheduleSettings(Section):
    """When the unlabelled terms come in, as fractions of training.num_epochs."""

    warmup: Share = Field(description="Share of the training with the supervised loss alone.")
    ramp: Share = Field(description="Share of the training in which the weights then grow to their full value.")


class SemiSupervisedSettings(Settings):
    """Settings of every method with unlabelled terms."""

    schedule: ScheduleSettings


class PretrainingDataSettings(DataSettings):
    """Which images a pre-training sees."""

    exclude_val: bool = Field(
        description="Whether the images of the fold's validation cases stay unseen. False: they are learned from as "
        "well, without their labels (transductive use).",
    )


class OptimizerSettings(Section):
    """Optimiser of a pre-training, with linear warm-up and cosine decay of `training.initial_lr`."""

    name: Literal["adamw", "radam"] = Field(description="Optimiser of the network.")
    weight_decay: Weight = Field(description="Its weight decay.")
    warmup: Share = Field(description="Share of the training in which the learning rate grows.")


class PretrainingSettings(Settings):
    """Settings of every training without a label."""

    data: PretrainingDataSettings
    optimizer: OptimizerSettings


def allowed_keys(model: type[Section], prefix: str = "") -> dict[str, str]:
    """Every dotted key of a settings model with its description, in order."""
    keys: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys.update(allowed_keys(field.annotation, f"{prefix}{name}."))
        else:
            keys[prefix + name] = field.description or ""
    return keys


def allowed_values(model: type[Section], key: str) -> str:
    """What a dotted key accepts, in words, read from its type.

    >>> allowed_values(Settings, "training.num_epochs")
    "an integer >= 1 or 'auto'"
    """
    *sections, name = key.split(".")
    for section in sections:
        annotation = model.model_fields[section].annotation
        assert isinstance(annotation, type)
        model = annotation
    return _in_words(model.model_json_schema()["properties"][name])


_KINDS = {
    "integer": "an integer", "number": "a number", "string": "a text", "boolean": "true or false", "null": "none",
}  # fmt: skip
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _in_words(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_in_words(option) for option in schema["anyOf"])
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " or ".join(repr(value) for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"a list of: {_in_words(schema['items'])}"
    limits = [f"{sign} {schema[name]:g}" for name, sign in _BOUNDS.items() if name in schema]
    return " ".join([_KINDS[str(kind)], " and ".join(limits)]).strip()


def _refusal(model: type[Section], error: ValidationError) -> str:
    keys = allowed_keys(model)
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        key = ".".join(path)
        section = ".".join(path[:-1])
        known = [k for k in keys if k.startswith(section + ".")] if section else list(keys)
        return f"unknown setting {key}; known are: {', '.join(known or keys)}"
    key = next((k for k in (".".join(path[:n]) for n in range(len(path), 0, -1)) if k in keys), ".".join(path))
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"setting {key} is missing"
    if key not in keys:
        return f"{key} is a section of settings, not a value: {first['input']!r}"
    value = first["input"]
    return f"{key} = {value!r} is not allowed; allowed is {allowed_values(model, key)}"
