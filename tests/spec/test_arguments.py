"""``etl_args``: a few names, checked as strictly as the pipeline; and the seed that is made of them."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import pytest

from tvetl import spec
from tvetl.errors import ArgumentsError
from tvetl.spec.pointwise import parts
from tvetl.spec.seed import Arrival, arrival, drawn_as, warning_of

JPEG = spec.parse({"steps": [{"op": "RandomResizedCrop", "size": 224}], "output": {"format": "jpeg", "optimize": True}})
TENSOR = spec.parse({"steps": [{"op": "ToTensor"}], "output": {"format": "npy", "dtype": "float16"}})


def refused(source: Any, pipeline: spec.Pipeline | None = None) -> list[str]:
    with pytest.raises(ArgumentsError) as caught:
        spec.with_arguments(pipeline or JPEG, spec.parse_arguments(source))
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("nothing", [None, "", "{}", {}, {"seed": None}, {"pixels": False}, {"pixels": None}])
def test_no_arguments_leave_the_pipeline_as_it_is(nothing: Any) -> None:
    arguments = spec.parse_arguments(nothing)
    assert arguments == spec.Arguments()
    assert spec.with_arguments(JPEG, arguments) is JPEG


def test_json_text_and_data_are_the_same_arguments() -> None:
    text = '{"seed":7,"epoch":0,"view":2,"format":"webp","quality":80,"size":[96]}'
    expected = spec.Arguments(
        seed=7,
        view=2,
        format="webp",
        quality=80,
        size=96,
        given=frozenset({"seed", "epoch", "view", "format", "quality", "size"}),
    )
    assert spec.parse_arguments(text) == expected
    assert (
        spec.parse_arguments({"seed": 7, "epoch": 0, "view": 2, "format": "webp", "quality": 80, "size": 96})
        == expected
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x", "$: not valid JSON"),
        ("seed: 3", "$: not valid JSON"),
        ("[1]", "$: expected a JSON object"),
        ('{"seed":1,"seed":1}', "$: the key 'seed' comes twice in one object"),
        ('{"epoc":1}', "$: unknown key 'epoc'; did you mean epoch?"),
        ('{"seed":-1}', "$.seed: expected 0..9223372036854775807"),
        ('{"seed":true}', "$.seed: expected 0..9223372036854775807"),
        ('{"seed":"7"}', "$.seed: expected 0..9223372036854775807"),
        ('{"epoch":2147483648}', "$.epoch: expected 0..2147483647"),
        ('{"views":65}', "$.views: expected 1..64"),
        ('{"views":0}', "$.views: expected 1..64"),
        ('{"view":0,"views":2}', "$.view: not together with views"),
        ('{"size":0}', "$.size: expected 1..8192"),
        ('{"pixels":1}', "$.pixels: expected true or false or null, got 1"),
        ('{"pixels":"true"}', "$.pixels: expected true or false or null, got 'true'"),
        ('{"size":NaN}', "$: NaN is not allowed"),
        ("[" * 4000, "$: expected at most 32 levels of nesting"),
        ('{"seed":1}' + " " * 400_000, "$: expected at most 393216 bytes of text, got 400010"),
    ],
)
def test_anything_else_is_refused(source: str, said: str) -> None:
    assert any(said in problem for problem in refused(source))


def test_all_problems_are_reported() -> None:
    assert len(refused({"seed": -1, "views": 100, "what": 1})) == 3


def test_size_changes_the_one_step_that_has_a_size() -> None:
    changed = spec.with_arguments(JPEG, spec.parse_arguments({"size": [96, 128]}))
    assert changed.steps[0].params == {**JPEG.steps[0].params, "size": (96, 128)}
    assert changed.output == JPEG.output
    assert JPEG.steps[0].params["size"] == (224, 224)
    resize = spec.parse({"steps": [{"op": "Resize", "size": 224, "max_size": 300}]})
    assert spec.with_arguments(resize, spec.parse_arguments({"size": 96})).steps[0].params["size"] == 96


def test_size_is_refused_where_it_is_not_clear_what_it_means() -> None:
    two = spec.parse({"steps": [{"op": "Resize", "size": 256}, {"op": "CenterCrop", "size": 224}]})
    assert refused({"size": 96}, two) == [
        "$.size: needs a pipeline with exactly one step that has a size; this one has 2"
    ]
    assert "this one has 0" in refused({"size": 96}, TENSOR)[0]
    resize = spec.parse({"steps": [{"op": "Resize", "size": 224, "max_size": 300}]})
    assert "$.size: does not go with max_size of step 0 (Resize)" in refused({"size": 300}, resize)[0]
    inside = {"op": "RandomApply", "transforms": [{"op": "RandomCrop", "size": 32}]}
    deeper = {"op": "RandomApply", "transforms": [{"op": "RandomChoice", "transforms": [inside]}]}
    for steps in ([inside], [{"op": "Resize", "size": 256}, inside], [{"op": "Resize", "size": 256}, deeper]):
        assert "RandomApply holds another" in refused({"size": 96}, spec.parse({"steps": steps}))[0]


def test_quality_goes_to_formats_that_have_one() -> None:
    changed = spec.with_arguments(JPEG, spec.parse_arguments({"quality": 90}))
    assert changed.output.options == {**JPEG.output.options, "quality": 90}
    png = spec.parse({"steps": [], "output": {"format": "png"}})
    assert refused({"quality": 90}, png) == ["$.quality: png has no quality"]
    assert refused({"quality": 0}, JPEG) == ["$.quality: expected 1..100, got 0 for jpeg"]
    webp = spec.with_arguments(JPEG, spec.parse_arguments({"format": "webp", "quality": 0}))
    assert webp.output == spec.Output("webp", {"quality": 0, "lossless": False, "method": 4})


def test_format_stays_an_image_or_a_tensor() -> None:
    assert refused({"format": "npy"}, JPEG) == [
        "$.format: expected one of jpeg, png, webp, for that is what the steps end in"
    ]
    assert refused({"format": "png"}, TENSOR)[0].startswith("$.format: expected one of npy, safetensors, raw")
    changed = spec.with_arguments(TENSOR, spec.parse_arguments({"format": "raw"}))
    assert changed.output == spec.Output("raw", {"dtype": "float16"})


def test_pixels_are_what_the_pointwise_steps_at_the_end_would_be_given() -> None:
    steps = [{"op": "CenterCrop", "size": 224}, {"op": "ToTensor"}, {"op": "Normalize", "mean": [0.5], "std": [0.5]}]
    whole = spec.parse({"steps": steps, "output": {"format": "npy", "dtype": "float16"}, "seed": 3})
    arguments = spec.parse_arguments({"pixels": True, "size": 96, "format": "raw", "epoch": 2})
    assert arguments.given == {"pixels", "size", "format", "epoch"}
    steps = [{"op": "CenterCrop", "size": 96}, {"op": "PILToTensor"}]
    assert spec.with_arguments(whole, arguments) == spec.parse({"steps": steps, "output": {"format": "raw"}, "seed": 3})


def test_pixels_are_refused_where_the_pipeline_has_none() -> None:
    assert refused({"pixels": True}) == ["$.pixels: needs a pipeline that ends in a tensor; this one gives jpeg"]
    erasing = spec.parse({"steps": [{"op": "ToTensor"}, {"op": "RandomErasing"}]})
    said = "$.pixels: only ToDtype and Normalize may follow step 0 (ToTensor); step 1 is RandomErasing"
    assert refused({"pixels": True}, erasing) == [said]
    assert refused({"pixels": True, "size": 9}, erasing)[1:] == [said]
    said = "$.pixels: needs a pipeline that ends in a tensor; this one gives an image"
    assert refused({"pixels": True, "boxes": []}) == refused({"pixels": True, "keypoints": [[1, 2]]}) == [said]


def test_epoch_and_view_need_a_seed_and_views_do_not() -> None:
    assert "$.epoch: needs a seed" in refused({"epoch": 0}, JPEG)[0]
    assert "$.view: needs a seed" in refused({"view": 1}, JPEG)[0]
    spec.with_arguments(JPEG, spec.parse_arguments({"views": 2}))
    spec.with_arguments(JPEG, spec.parse_arguments({"view": 1, "seed": 0}))
    seeded = spec.parse({"steps": [], "seed": 0})
    assert spec.with_arguments(seeded, spec.parse_arguments({"epoch": 3, "views": 2})) is seeded


def test_the_seed_of_a_view_is_the_one_that_is_documented() -> None:
    digest = hashlib.sha256(b"42\x001\x003\x00imagenet/train/n01440764/\xc3\xa4.jpg").digest()
    expected = digest[0] << 24 | digest[1] << 16 | digest[2] << 8 | digest[3]
    assert spec.derive_seed(42, 1, 3, "imagenet/train/n01440764/ä.jpg") == expected
    # printf '0\0000\0000\0b/o' | sha256sum
    assert spec.derive_seed(0, 0, 0, "b/o") == int("344fd446", 16)


def test_every_part_of_a_view_changes_its_seed() -> None:
    views = [
        (1, 2, 3, "b/o"),
        (2, 2, 3, "b/o"),
        (1, 3, 3, "b/o"),
        (1, 2, 4, "b/o"),
        (1, 2, 3, "b/p"),
        (12, 3, 3, "b/o"),
    ]
    assert len({spec.derive_seed(*view) for view in views}) == len(views)


def test_a_name_that_is_no_unicode_has_a_seed_too() -> None:
    assert 0 <= spec.derive_seed(0, 0, 0, "b/\udcff") < 2**32


@pytest.mark.parametrize(
    "like", ["", "bucket", "bucket/", "/name", "s3://b/a", 7, ["b/a"], "b/\ud800", "b/" + "x" * 1100]
)
def test_like_names_an_object_and_its_bucket(like: Any) -> None:
    [said] = refused({"like": like})
    assert said.startswith("$.like: expected an object as bucket/name")
    assert spec.parse_arguments({"like": "b/a%20b.jpg"}).like == "b/a%20b.jpg"
    assert spec.with_arguments(JPEG, spec.parse_arguments({"like": "b/x"})) is JPEG


@pytest.mark.parametrize(
    ("name", "how"),
    [("a.jpg", "whole"), ("dir/b c+&=.jpg", "whole"), ("ü-猫.jpg", "whole"), ("dbl//slash.jpg", "whole"),
     ("a%20b.jpg", "changed"), ("100%25.jpg", "changed"), ("q?1.jpg", "changed"), ("q?50%.jpg", "changed"),
     ("50% off.jpg", "never"), ("100%", "never"), ("a%2", "never"), ("a#b.jpg", "never"), ("q?1#.jpg", "never"),
     ("q?1 2.jpg", "never"), ("a\tb.jpg", "never"), ("a\n%20.jpg", "never"), ("%zz?a", "never")],
)  # fmt: skip
def test_it_is_known_which_names_aistore_changes_on_the_way(name: str, how: Arrival) -> None:
    assert arrival(name) == how
    others: tuple[Literal["changed", "never"], ...] = ("changed", "never")
    for other in others:
        warning = warning_of(["x", name, "y", name], other)
        assert bool(warning) == (how == other)
        assert not warning or (" 2 objects " in warning and f", {name!r} first: " in warning)


def test_an_object_is_drawn_by_its_bucket_without_the_provider() -> None:
    assert drawn_as("images", "a/b.jpg") == drawn_as("ais://images", "a/b.jpg") == drawn_as("s3://images/", "a/b.jpg")
    assert drawn_as("images", "a/b.jpg") == "images/a/b.jpg"


def test_pixels_are_refused_to_whom_has_another_table() -> None:
    table = parts(TENSOR).digest
    asked = spec.parse_arguments({"pixels": True, "table": table})
    assert spec.with_arguments(TENSOR, asked) == parts(TENSOR).pixels
    said = "$.table: this pipeline has another table: the ETL was registered anew"
    steps = [{"op": "ToTensor"}, {"op": "Normalize", "mean": [0.5] * 3, "std": [1, 1, 1]}]
    for others, dtype in ((steps, "float16"), (steps[:1], "float32"), ([{"op": "Grayscale"}, steps[0]], "float16")):
        pipeline = spec.parse({"steps": others, "output": {"format": "npy", "dtype": dtype}})
        assert refused({"pixels": True, "table": table}, pipeline) == [said]
    assert refused({"table": table}, TENSOR) == ["$.table: is of pixels, which are not asked for"]
    assert refused({"pixels": True, "table": "x"}, TENSOR) == ["$.table: expected 16 hex digits, got 'x'"]
