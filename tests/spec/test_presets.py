"""torchvision's presets are read: those of its reference scripts, and of pretrained weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from support.spec.images import random_image

from tvetl import spec
from tvetl.errors import PipelineError
from tvetl.spec.compose import from_compose, to_compose

torch = pytest.importorskip("torch", reason="torchvision is not installed")
v1 = pytest.importorskip("torchvision.transforms", reason="torchvision is not installed")
v2 = pytest.importorskip("torchvision.transforms.v2", reason="torchvision is not installed")
tv_tensors = pytest.importorskip("torchvision.tv_tensors", reason="torchvision is not installed")

FLIP, MEAN = {"op": "RandomHorizontalFlip"}, (123.0, 117.0, 104.0)
SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
#: Of torchvision's references, as they are written with v2; the crops stand for classes of these scripts.
DETECTION: dict[str, tuple[Callable[[], list[object]], list[dict[str, object]]]] = {
    "hflip": (lambda: [v2.RandomHorizontalFlip(p=0.5)], [FLIP]),
    "lsj": (
        lambda: [
            v2.ScaleJitter(target_size=(1024, 1024), antialias=True),
            v2.RandomCrop((1024, 1024), pad_if_needed=True, fill={tv_tensors.Mask: 0, "others": MEAN}),
            v2.RandomHorizontalFlip(),
        ],
        [
            {"op": "ScaleJitter", "target_size": [1024, 1024]},
            {"op": "RandomCrop", "size": 1024, "pad_if_needed": True, "fill": [123, 117, 104], "mask_fill": 0},
            FLIP,
        ],
    ),
    "multiscale": (
        lambda: [v2.RandomShortestSize(min_size=SIDES, max_size=1333), v2.RandomHorizontalFlip()],
        [{"op": "RandomShortestSize", "min_size": [*SIDES], "max_size": 1333}, FLIP],
    ),
    "ssd": (
        # In such a dict torchvision finds nothing for images, and leaves them black.
        lambda: [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill=defaultdict(lambda: MEAN, {tv_tensors.Mask: 0})),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
        ],
        [
            {"op": "RandomPhotometricDistort"},
            {"op": "RandomZoomOut", "fill": None, "mask_fill": 0},
            {"op": "RandomIoUCrop"},
            FLIP,
        ],
    ),
    "ssdlite": (lambda: [v2.RandomIoUCrop(), v2.RandomHorizontalFlip()], [{"op": "RandomIoUCrop"}, FLIP]),
}


@pytest.mark.parametrize("backend", ["pil", "tv_tensor"])
@pytest.mark.parametrize("name", DETECTION)
def test_presets_for_detection_are_read(name: str, backend: str) -> None:
    make, steps = DETECTION[name]
    image = [v2.ToImage()]
    ends = [
        v2.ToDtype(torch.float, scale=True),
        v2.ConvertBoundingBoxFormat(tv_tensors.BoundingBoxFormat.XYXY),
        v2.SanitizeBoundingBoxes(labels_getter=None),
        v2.ToPureTensor(),
    ]
    transforms = [*make(), *image, *ends] if backend == "pil" else [*image, *make(), *ends]
    before, after = ([], [{"op": "ToImage"}]) if backend == "pil" else ([{"op": "ToImage"}], [])
    to_float = {"op": "ToDtype", "dtype": "float32", "scale": True}
    pipeline = spec.parse({"steps": [*before, *steps, *after, to_float, {"op": "SanitizeBoundingBoxes"}]})
    assert from_compose(v2.Compose(transforms)) == pipeline == from_compose(to_compose(pipeline))
    sample = {
        "image": random_image((120, 90)),
        "mask": tv_tensors.Mask(torch.arange(120 * 90, dtype=torch.int32).reshape(90, 120) % 7),
        "boxes": tv_tensors.BoundingBoxes([[3, 4, 50, 60], [70, 1, 119, 88]], format="XYXY", canvas_size=(90, 120)),
        "labels": torch.arange(2),
    }
    for seed in range(3):
        torch.manual_seed(seed)
        theirs = v2.Compose([*transforms[:-2], v2.SanitizeBoundingBoxes()])(sample)
        torch.manual_seed(seed)
        ours = to_compose(pipeline)(sample)
        assert all(torch.equal(ours[each], theirs[each]) for each in sample)


@pytest.mark.parametrize("image", ["tensor", "tv_tensor"])
def test_presets_for_segmentation_are_read(image: str) -> None:
    kind = torch.Tensor if image == "tensor" else tv_tensors.Image
    transforms = [
        v2.RandomResize(min_size=260, max_size=1040),
        v2.RandomHorizontalFlip(0.5),
        v2.RandomCrop(480, pad_if_needed=True, fill={tv_tensors.Mask: 255, "others": 0}),
        v2.PILToTensor() if image == "tensor" else v2.ToImage(),
        v2.ToDtype(dtype={kind: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
        v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        v2.ToPureTensor(),
    ]
    steps = [
        {"op": "RandomResize", "min_size": 260, "max_size": 1040},
        FLIP,
        {"op": "RandomCrop", "size": 480, "pad_if_needed": True, "mask_fill": 255},
        {"op": "PILToTensor" if image == "tensor" else "ToImage"},
        {"op": "ToDtype", "dtype": "float32", "scale": True},
        {"op": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    ]
    assert from_compose(v2.Compose(transforms)) == spec.parse({"steps": steps})
    evaluation = v2.Compose([v2.Resize((520, 520)), *transforms[3:]])
    assert from_compose(evaluation) == spec.parse({"steps": [{"op": "Resize", "size": [520, 520]}, *steps[3:]]})


def presets() -> list[object]:
    """Each of torchvision's presets for images, as some pretrained weights have it."""
    from torchvision import models
    from torchvision.models import detection, segmentation

    return [
        models.ResNet18_Weights.IMAGENET1K_V1.transforms(),
        models.ResNet50_Weights.IMAGENET1K_V2.transforms(),  # resize to 232
        models.EfficientNet_B0_Weights.IMAGENET1K_V1.transforms(),  # bicubic
        models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.transforms(),  # 384, bicubic
        models.ResNet18_Weights.IMAGENET1K_V1.transforms(antialias=False, crop_size=300),
        segmentation.FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.transforms(),
        segmentation.FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.transforms(resize_size=None),
        detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.transforms(),
    ]


@pytest.mark.parametrize("which", range(8))
def test_the_presets_of_pretrained_weights_give_their_own_values(which: int) -> None:
    preset: Any = presets()[which]
    pipeline = from_compose(preset)
    assert pipeline == from_compose(v2.Compose([v2.RGB(), preset]))
    for size in ((500, 375), (190, 301)):
        image = random_image(size)
        assert torch.equal(to_compose(pipeline)(image), preset(image))


def test_presets_of_videos_are_refused() -> None:
    from torchvision.models import optical_flow, video

    for weights in (video.R3D_18_Weights.KINETICS400_V1, optical_flow.Raft_Small_Weights.C_T_V1):
        with pytest.raises(PipelineError, match="takes videos or pairs of images"):
            from_compose(weights.transforms())
