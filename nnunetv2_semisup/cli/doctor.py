"""`nnUNetv2_semisup doctor`: one page on the installation, and what to type to mend what is broken."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import platform
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from nnunetv2_semisup.cli.trainers import EXAMPLE as SET_EXTENSION
from nnunetv2_semisup.cli.trainers import extension_folder
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.methods import trainer_names

HELP = "check the installation, nnU-Net's variables and the trainers, and say how to mend what is broken"
EXAMPLE = "nnUNetv2_semisup doctor -d 7"

WEIGHTS_EXAMPLE = "nnUNetv2_semisup doctor --weights FILE -d DATASET -c CONFIGURATION"
NAME_WEIGHTS = f"{WEIGHTS_EXAMPLE}   (FILE: a fold's checkpoint_final.pth)"

SHOWN = ("nnunetv2", "torch", "torchvision")
"""The packages that are always listed and imported; others appear only when they are broken."""
VARIABLES = {"nnUNet_raw": False, "nnUNet_preprocessed": True, "nnUNet_results": True}
"""nnU-Net's folders, and whether it writes there."""
EXTENSION_VARIABLE = "nnUNet_extTrainer"


@dataclass(frozen=True)
class Finding:
    """One line of the page; with a remedy it is broken, and the remedy says what to type."""

    text: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A dataset to look at, and a file of weights that is meant for it."""
    parser.add_argument("--weights", type=Path, metavar="FILE",
                        help="also say whether nnUNetv2_train -pretrained_weights FILE would work; needs -d "
                             "and -c")  # fmt: skip
    parser.add_argument("-d", dest="dataset", metavar="DATASET",
                        help="also say whether this dataset, by id or name, is ready for a training")  # fmt: skip
    parser.add_argument("-c", dest="configuration", metavar="CONFIGURATION",
                        help="of the dataset: 2d, 3d_fullres, ...; default: all that are preprocessed")  # fmt: skip
    parser.add_argument("-p", dest="plans", metavar="PLANS", help="of the dataset; default: nnUNetPlans")


def run(args: argparse.Namespace) -> int:
    """Print every finding as soon as it is known. Returns 1 when one is broken."""
    _check_usage(args)
    chapters = [("Versions", versions), ("Variables", variables), ("Trainers", trainers)]
    if args.dataset:
        chapters.append(("Dataset", partial(dataset, args.dataset, args.configuration, args.plans)))
    if args.weights:
        chapters.append(("Weights", partial(weights, args.weights, args.dataset, args.configuration, args.plans)))
    n_broken = 0
    for title, findings in chapters:
        print(f"\n{title}")
        for finding in findings():
            print(f"  {'BROKEN' if finding.remedy else 'ok    '}  {finding.text}", flush=True)
            if finding.remedy:
                n_broken += 1
                print(f"          type: {finding.remedy}")
    print(f"\n{n_broken} broken" if n_broken else "\nEverything is in place.")
    return 1 if n_broken else 0


def versions() -> Iterator[Finding]:
    """Python, what this package and nnU-Net require, whether torchvision was built for this torch, and CUDA."""
    yield Finding(f"Python {platform.python_version()}")
    unmet = {**_unmet("nnunetv2"), **_unmet("torchvision"), **_unmet("nnunetv2-semisup")}
    for name in SHOWN:
        if name in unmet:
            continue
        version = _version(name)
        error = None if unmet else _import_error(name)
        if error:
            yield Finding(f"{name} {version}: {error}", _install(f"--force-reinstall --no-deps {name}=={version}"))
        else:
            yield Finding(f"{name} {version}")
    for package, text in unmet.items():
        yield Finding(text, _install(_together(package)))
    if not _import_error("torch"):
        yield Finding(_device())


def variables() -> Iterator[Finding]:
    """nnU-Net's three folders, and the fourth variable, through which it finds our trainers."""
    for name, written in VARIABLES.items():
        value = os.environ.get(name)
        if not value:
            yield Finding(f"{name} is not set", f"export {name}=FOLDER")
        elif not Path(value).is_dir():
            yield Finding(f"{name} = {value}: there is no such folder", f'mkdir -p "{value}"')
        elif written and not _writable(value):
            yield Finding(f"{name} = {value}: cannot be written", f"export {name}=FOLDER   (one that you may write to)")
        else:
            yield Finding(f"{name} = {value}")
    value = os.environ.get(EXTENSION_VARIABLE)
    if not value:
        yield Finding(f"{EXTENSION_VARIABLE} is not set: nnU-Net cannot find our trainers", SET_EXTENSION)
    elif not _names_extension(value):
        yield Finding(f"{EXTENSION_VARIABLE} = {value}: does not name {extension_folder()}", SET_EXTENSION)
    else:
        yield Finding(f"{EXTENSION_VARIABLE} = {value}")


def trainers() -> Iterator[Finding]:
    """Every trainer of ours, looked up by nnU-Net itself, up to the first import error.

    Where the variable is still to be mended, the look-up runs as if it were, so that one page shows everything.
    """
    with _extension_named():
        for name in trainer_names():
            try:
                found = _find_trainer(name)
            except Exception as error:
                yield Finding(f"{name}: {_where(error)}", _mend_lookup(error))
                return
            yield Finding(f"{name} from {found.__module__}")


def dataset(name: str, configuration: str | None, plans_name: str | None) -> Iterator[Finding]:
    """Whether plans, labelled and unlabelled cases of a dataset are there, for each configuration in question."""
    try:
        from nnunetv2_semisup.data.folders import find_dataset, load_plans, variable_folder
        from nnunetv2_semisup.data.selection import ready_configurations

        folder = variable_folder("nnUNet_preprocessed") / find_dataset(name)
        plans = load_plans(folder, plans_name or "nnUNetPlans")
        yield Finding(f"{plans['plans_name']} of {folder.name}")
        for chosen in [configuration] if configuration else ready_configurations(folder, plans):
            yield _cases(folder, plans, chosen)
    except SemiSupervisedError as error:
        yield _finding(error, f"nnUNetv2_plan_and_preprocess -d {name}")
    except ImportError as error:
        yield Finding(f"{name}: not looked at, {_where(error)}", _mend_lookup(error))


def _cases(folder: Path, plans: dict[str, Any], configuration: str) -> Finding:
    from nnunetv2_semisup.data.selection import count_cases

    try:
        labeled, images, copies = count_cases(folder, plans, configuration)
    except SemiSupervisedError as error:
        return _finding(error, f"nnUNetv2_semisup preprocess -d {folder.name}")
    of_training = f", and {copies} image-only copies of labelled ones" if copies else ""
    return Finding(f"{configuration}: {labeled} labelled cases, {images} unlabelled ones{of_training}")


def _finding(error: SemiSupervisedError, otherwise: str) -> Finding:
    """What is wrong and what to type, from a message that says both; `otherwise` is for one that does not."""
    text, _, remedy = str(error).rpartition("; ")
    return Finding(text or remedy, remedy.removeprefix("type: ") if text else otherwise)


def weights(file: Path, dataset: str, configuration: str, plans_name: str | None) -> Iterator[Finding]:
    """Whether stock's -pretrained_weights takes a file for the network of a plan, and what to type in either case."""
    plans_name = plans_name or "nnUNetPlans"
    try:
        from nnunetv2_semisup.data.folders import find_dataset, load_dataset_json, load_plans, variable_folder
        from nnunetv2_semisup.training.weight_match import Target, judge_weights

        folder = variable_folder("nnUNet_preprocessed") / find_dataset(dataset)
        target = Target(load_plans(folder, plans_name), plans_name, configuration, load_dataset_json(folder))
        verdict = judge_weights(file, target)
    except SemiSupervisedError as error:
        yield _finding(error, NAME_WEIGHTS)
    except ImportError as error:
        yield Finding(f"{file}: not compared, {_where(error)}", _mend_lookup(error))
    else:
        if verdict.accepted:
            yield Finding(f"{verdict.text}; type: {verdict.advice}")
        else:
            yield Finding(verdict.text, verdict.advice)


def _check_usage(args: argparse.Namespace) -> None:
    if args.weights and not (args.dataset and args.configuration):
        raise SemiSupervisedError(f"--weights needs -d and -c, the training that they are for; type: {WEIGHTS_EXAMPLE}")
    if not args.dataset and (args.configuration or args.plans):
        raise SemiSupervisedError(f"-c and -p say what of a dataset to look at; type: {EXAMPLE} -c 3d_fullres")


def _find_trainer(name: str) -> type:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    with contextlib.redirect_stdout(io.StringIO()):
        found: type = recursive_find_trainer_class_by_name(name)
    return found


def _mend_lookup(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return _install(str(error.name).split(".")[0])
    return "mend what is broken above, or the file that the line names"


@contextlib.contextmanager
def _extension_named() -> Iterator[None]:
    before = os.environ.get(EXTENSION_VARIABLE)
    if before is None or not _names_extension(before):
        os.environ[EXTENSION_VARIABLE] = str(extension_folder())
    try:
        yield
    finally:
        os.environ.pop(EXTENSION_VARIABLE)
        if before is not None:
            os.environ[EXTENSION_VARIABLE] = before


def _names_extension(value: str) -> bool:
    return extension_folder() in (Path(folder).resolve() for folder in value.split(os.pathsep) if folder.strip())


def _writable(folder: str) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _unmet(package: str) -> dict[str, str]:
    """Required package -> what is wrong with its installed version, for the mandatory requirements of `package`."""
    unmet = {}
    for line in _requires(package):
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            unmet[requirement.name] = f"{requirement} is needed by {package} and not installed"
        elif not requirement.specifier.contains(version.split("+")[0], prereleases=True):
            wanted = f"{package} {_version(package)}, which needs {requirement}"
            unmet[requirement.name] = f"{requirement.name} {version} does not go with {wanted}"
    return unmet


def _together(package: str) -> str:
    """What to install so that `package` and what hangs on it match; torch stays as it is where it can."""
    wanted = {Requirement(line).name: line for line in _requires("nnunetv2-semisup")}
    if package == "torch" and _version("torch"):
        return f"'{wanted['torch']}' torchvision"
    return f"'{wanted.get(package, package)}'"


def _requires(package: str) -> list[str]:
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _install(what: str) -> str:
    return f"pip install --upgrade {what}"


def _import_error(package: str) -> str | None:
    try:
        importlib.import_module(package)
    except Exception as error:
        return f"cannot be imported, {_where(error)}"
    return None


def _where(error: Exception) -> str:
    """The error in one line, with the file and line that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    message = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {message} ({frames[-1].filename}:{frames[-1].lineno})"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return f"CUDA {torch.version.cuda}: {torch.cuda.device_count()} device(s), {', '.join(sorted(names))}"
    built = f"torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch was built without it"
    return f"CUDA: no device ({built}); trainings run with -device cpu, slowly"
