"""The op table is torchvision's: same classes, same parameters, same defaults."""

from __future__ import annotations

import inspect
from enum import Enum

import pytest

from tvetl import spec
from tvetl.spec.ops import ALIASES, row
from tvetl.spec.output import FORMATS

#: Not offered: whether a tensor is changed in place cannot be seen from outside, nor where a sample has its labels.
NOT_OFFERED = {"inplace", "labels_getter"}
#: torchvision says it by a dict for ``fill``.
OURS = {"mask_fill"}


def signature(name: str) -> dict[str, object]:
    v2 = pytest.importorskip("torchvision.transforms.v2", reason="torchvision is not installed")
    parameters = inspect.signature(getattr(v2, name).__init__).parameters
    return {
        each: parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
        for each, parameter in parameters.items()
        if each not in {"self", *NOT_OFFERED}
    }


@pytest.mark.parametrize("name", spec.OPS)
def test_parameters_and_defaults_are_torchvisions(name: str) -> None:
    theirs = signature(name)
    ours = {
        each: inspect.Parameter.empty if param.required else param.default
        for each, param in spec.OPS[name].params.items()
        if each not in OURS
    }
    assert list(ours) == list(theirs)
    assert ours == theirs


def test_aliases_have_the_v2_defaults() -> None:
    assert signature("ConvertImageDtype") == {"dtype": pytest.importorskip("torch").float32}
    assert {name: param.default for name, param in ALIASES["ConvertImageDtype"].params.items()} == {"dtype": "float32"}


@pytest.mark.parametrize("name", [*spec.OPS, *FORMATS])
def test_every_default_is_in_its_normal_form(name: str) -> None:
    params = spec.OPS[name].params if name in spec.OPS else FORMATS[name]
    for each, param in params.items():
        if not param.required:
            normal = param.kind.read(param.default)
            assert normal == param.default, each


def test_each_op_says_what_it_does_to_annotations() -> None:
    """As torchvision's kernels for boxes do, which are there for what moves pixels."""
    values = """
        ColorJitter Grayscale RandomGrayscale GaussianBlur RandomInvert RandomPosterize RandomSolarize
        RandomAdjustSharpness RandomPhotometricDistort RandomAutocontrast RandomEqualize RandomErasing
        ToTensor PILToTensor ToImage ToDtype Normalize ToPILImage"""
    assert {name for name, op in spec.OPS.items() if op.moves is False} == set(values.split())
    unknown = {"AutoAugment", "RandAugment", "TrivialAugmentWide", "AugMix"}
    assert {name for name, op in spec.OPS.items() if op.moves is None} == unknown
    assert row("acme.Vignette").moves is None
    of_boxes = {"RandomIoUCrop", "ClampBoundingBoxes", "SanitizeBoundingBoxes"}
    assert {name for name, op in spec.OPS.items() if op.needs_boxes} == of_boxes
    assert {name for name, op in spec.OPS.items() if not op.image} == of_boxes - {"RandomIoUCrop"}


def test_whatever_moves_masks_says_what_fills_them() -> None:
    filling = {name for name, op in spec.OPS.items() if "fill" in op.params and op.moves}
    assert filling == {name for name, op in spec.OPS.items() if "mask_fill" in op.params}
    assert "RandomZoomOut" in filling


def test_all_transforms_that_were_promised_are_there() -> None:
    promised = """
        Resize CenterCrop RandomCrop RandomResizedCrop Pad RandomHorizontalFlip RandomVerticalFlip RandomRotation
        RandomAffine RandomPerspective ColorJitter Grayscale RandomGrayscale GaussianBlur RandomInvert RandomPosterize
        RandomSolarize RandomAdjustSharpness RandomAutocontrast RandomEqualize RandAugment AutoAugment
        TrivialAugmentWide AugMix RandomErasing RandomApply ToTensor PILToTensor ToImage ToDtype Normalize ToPILImage
        ScaleJitter RandomShortestSize RandomResize RandomZoomOut RandomIoUCrop ClampBoundingBoxes SanitizeBoundingBoxes
        RandomPhotometricDistort RandomChoice RandomOrder"""
    assert set(spec.OPS) == set(promised.split())
