"""Our random numbers are torch's, so a seed means here what it means there."""

from __future__ import annotations

import numpy as np
import pytest

from tvetl.spec import parse
from tvetl_server.engine import exact
from tvetl_server.engine.draw import LOG_OF_RATIO, Draw

torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")
v2 = pytest.importorskip("torchvision.transforms.v2", reason="compares with torchvision, which is not installed")

#: width, height: photographs, a thin strip that needs the fallback, one pixel, a large one.
SIZES = ((500, 375), (375, 500), (640, 427), (33, 1000), (2000, 21), (1, 1), (4000, 3000))


def test_each_kind_of_draw_is_torchs_in_any_order() -> None:
    kinds = np.random.default_rng(1).integers(0, 4, 60)
    for seed in [*range(300), 2**31, 2**32 - 1]:
        torch.manual_seed(seed)
        ours = Draw(seed)
        for kind in kinds:
            if kind == 0:
                assert ours.rand() == torch.rand(1).item()
            elif kind == 1:
                assert ours.uniform(0.08, 1.0) == torch.empty(1).uniform_(0.08, 1.0).item()
            elif kind == 2:
                assert ours.below(353) == torch.randint(0, 353, ()).item()
            else:
                assert ours.permutation(4) == torch.randperm(4).tolist()


def test_logarithms_of_the_usual_ratios_are_torchs() -> None:
    for ratio, logarithm in LOG_OF_RATIO.items():
        ours, theirs = np.float32(logarithm), np.float32(torch.log(torch.tensor((ratio, ratio)))[0].item())
        if ours != theirs:  # processors differ in the last bit here: docs/exactness.md
            assert abs(int(ours.view(np.int32)) - int(theirs.view(np.int32))) == 1
            pytest.skip(f"this processor's torch has another last bit for log({ratio}); see docs/exactness.md")


def test_100_000_seeds_of_random_resized_crop_and_flip_draw_torchvisions_box() -> None:
    if torch.log(torch.tensor((0.75, 4 / 3)))[0].item() != LOG_OF_RATIO[0.75]:
        pytest.skip("this processor's torch has another last bit for log(0.75); see docs/exactness.md")
    step = parse({"steps": [{"op": "RandomResizedCrop", "size": 224}]}).steps[0]
    crop, images = v2.RandomResizedCrop(224), [torch.empty(3, height, width) for width, height in SIZES]
    differing = []
    for seed in range(100_000):
        image = images[seed % len(SIZES)]
        torch.manual_seed(seed)
        box = crop.make_params([image])
        flipped = torch.rand(1).item() < 0.5
        ours = Draw(seed)
        left, top, right, bottom = exact.random_box(step.params, ours, SIZES[seed % len(SIZES)])
        same = (top, left, bottom - top, right - left) == (box["top"], box["left"], box["height"], box["width"])
        if not same or (ours.rand() < 0.5) != flipped:
            differing.append(seed)
    assert differing == []
