"""The engine for labels of several kinds: sparse batches beside dense ones, and a teacher's decoder for the dense."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from nnunetv2_semisup.data.annotation import (
    Annotated,
    Annotation,
    complete,
    labels_of,
    read_annotated,
    sort_by_annotation,
)
from nnunetv2_semisup.data.folders import load_dataset_json, preprocessed_identifiers, resolve_configuration
from nnunetv2_semisup.data.loader import process_budget
from nnunetv2_semisup.data.selection import RunCases, select_cases
from nnunetv2_semisup.data.sparse_loader import sparse_loader, sparse_rows
from nnunetv2_semisup.data.splits import stock_fold
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.networks.second_decoder import forward_both
from nnunetv2_semisup.regularizers.mixedkd import MixedKD
from nnunetv2_semisup.training.labeled_pass import LabeledPass
from nnunetv2_semisup.training.partial_loss import PartialLoss
from nnunetv2_semisup.training.preflight import Place
from nnunetv2_semisup.training.trainer import SemiSupervisedTrainer, on_device


class MixedSupervisionTrainer(SemiSupervisedTrainer):
    """A training on dense, sparse and missing labels, or on any two of them with the dense ones.

    Sparse cases are labelled cases with nnU-Net's ignore label. The trainer finds them by the share of annotated voxels
    unless the split file names them. nnU-Net's batch is of the dense cases, and one of sparse cases comes beside it.
    Without any, and with every weight of the method at 0, it is nnU-Net's own training.
    """

    annotation = Annotation()
    dataloader_sparse: Any = None

    def find_cases(
        self, place: Place, plans: dict[str, Any], configuration: str, fold: int | str, need_unlabeled: bool
    ) -> RunCases:
        """The cases; a training with sparse ones can do without unlabelled ones."""
        if any(regularizer.needs_labeled_features for regularizer in self.regularizers):
            raise NotImplementedError(
                f"{type(self).__name__} cannot be combined with a method that reads the labelled batch's features, "
                "since its own losses of that batch would be left out"
            )
        cases = super().find_cases(place, plans, configuration, fold, need_unlabeled=False)
        if not need_unlabeled:
            return cases
        self.annotation = self._find_annotation(place, plans, configuration, fold, cases)
        return select_cases(
            place.dataset_folder,
            plans,
            configuration,
            fold,
            self.requested.data.split,
            need_unlabeled=True,
            none_is_fine=bool(self.annotation.sparse),
        )

    def _find_annotation(
        self, place: Place, plans: dict[str, Any], configuration: str, fold: int | str, cases: RunCases
    ) -> Annotation:
        """How the labelled cases are annotated. They are read where the dataset has an ignore label, not elsewhere."""
        ignore_label = load_dataset_json(place.dataset_folder)["labels"].get("ignore")
        if ignore_label is None and cases.labeled is None:
            return Annotation()
        resolved = resolve_configuration(plans, configuration)
        folder = place.dataset_folder / resolved.data_identifier
        labeled = cases.labeled
        if labeled is None:
            everything = sorted(preprocessed_identifiers(folder))
            labeled = tuple(everything if fold == "all" else stock_fold(place.dataset_folder, everything, fold)[0])
        annotated = complete(labeled) if ignore_label is None else read_annotated(folder, labeled, ignore_label)
        annotation = sort_by_annotation(annotated, cases.dense, cases.sparse)
        if annotation.sparse:
            self._refuse_unknown_classes(annotated, annotation)
        return annotation

    def _refuse_unknown_classes(self, annotated: dict[str, Annotated], annotation: Annotation) -> None:
        """The teacher would teach that they do not exist; without distillation the sparse labels teach them."""
        dense = sorted(annotated.keys() - set(annotation.sparse))
        unknown = sorted(labels_of(annotated, annotation.sparse) - labels_of(annotated, dense))
        if unknown and self.requested.kd.weight > 0:  # type: ignore[attr-defined]
            example = next(case for case in annotation.sparse if unknown[0] in annotated[case].labels)
            raise SemiSupervisedError(
                f"the label {unknown[0]} occurs in sparse cases ({example}) and in no dense one, so the teacher would "
                "teach that it does not exist; annotate it in a dense case, or set kd.weight=0"
            )

    @cached_property
    def _labeled_pass(self) -> LabeledPass:
        regularizer = next(each for each in self._regularizers if isinstance(each, MixedKD))
        known = partial(regularizer.facts.known, classes=self.label_manager.num_segmentation_heads)
        sparse_loss = PartialLoss(self._build_loss(), known, self._background_is_known)
        forward = torch.compile(forward_both) if self._do_i_compile() else forward_both
        return LabeledPass(
            regularizer, self.loss, sparse_loss, forward, self._means, self.cost, self._autocast, self._scaled
        )

    @property
    def _background_is_known(self) -> bool:
        return not self.annotation.sparse or self.annotation.without_background != self.annotation.sparse

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """As nnU-Net, without the sparse cases: its batches are dense."""
        train, val = super().get_tr_and_val_datasets()
        train.identifiers = [case for case in train.identifiers if case not in self.annotation.sparse]
        return train, val

    def get_dataloaders(self) -> tuple[Any, Any]:
        """As the engine; where there are sparse cases, a loader of theirs beside them within the same budget."""
        if not self.annotation.sparse:
            return super().get_dataloaders()
        with process_budget(1 / 3) as processes:
            loaders = super().get_dataloaders()
        self.dataloader_sparse = sparse_loader(
            loaders[0],
            self.dataset_class(self.preprocessed_dataset_folder, list(self.annotation.sparse)),
            sparse_rows(int(self.batch_size), self.settings.data.dense_share),  # type: ignore[attr-defined]
            self.label_manager,
            self.probabilistic_oversampling,
            processes,
            self.device.type == "cuda",
        )
        return loaders

    def loaders(self) -> list[Any]:
        """The engine's, and that of the sparse batches."""
        return [*super().loaders(), self.dataloader_sparse]

    def labeled_backward(self, data: Tensor, target: Any, factor: float) -> Tensor:
        """The losses of both decoders on their patches, and the weak terms of the labelled patches."""
        has_terms = self._labeled_pass.regularizer.labeled_weights["entropy_dense"] > 0
        if self.second_decoder is None and not self.annotation.sparse and not has_terms:
            return super().labeled_backward(data, target, factor)
        common = self._local_network, self.second_decoder, factor, self._first_of_epoch
        loss = self._labeled_pass.dense(data, target, *common)
        self._peer_backward(data, target)
        if self.dataloader_sparse is not None:
            data, target = on_device(next(self.dataloader_sparse), self.device)
            loss = loss + self._labeled_pass.sparse(data, target, *common)
        return loss

    def logged(self) -> tuple[list[str], list[str]]:
        """The terms and signs of the labelled batch after those of the unlabelled one."""
        terms, signs = super().logged()
        regularizer = self._labeled_pass.regularizer
        return [*terms, *regularizer.labeled_weights], [*signs, *regularizer.labeled_sign_names]

    def case_lists(self) -> dict[str, list[str]]:
        """The engine's, and "sparse". Labelled cases that are not sparse are dense."""
        return super().case_lists() | {"sparse": list(self.annotation.sparse)}

    def section(self) -> dict[str, Any]:
        """The engine's, and the share of annotated voxels of each labelled case that was looked at."""
        return super().section() | {"annotated": dict(self.annotation.shares)}

    def _print_run(self) -> None:
        super()._print_run()
        annotation = self.annotation
        if not annotation.shares:
            self.print_to_log_file("Every labelled case is dense")
            return
        for kind in ("dense", "sparse"):
            shares = {c: s for c, s in annotation.shares.items() if (c in annotation.sparse) == (kind == "sparse")}
            listed = ", ".join(f"{case} ({share:.1%})" for case, share in shares.items())
            self.print_to_log_file(f"{len(shares)} {kind} cases (annotated voxels): {listed}")
        if annotation.without_background:
            rest = "" if self._background_is_known else ", so the Dice is left out of the loss of sparse patches"
            self.print_to_log_file(
                f"{len(annotation.without_background)} sparse cases have no annotated background{rest}: "
                f"{', '.join(annotation.without_background)}"
            )
