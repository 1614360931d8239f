"""A template names an object for another one, and refuses what it cannot fill in."""

from __future__ import annotations

import re

import pytest

from tvetl import spec
from tvetl.errors import PipelineError
from tvetl.spec.templates import check, expand


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("{bucket}/{folder}{stem}.jpg", "cats/a.b/1.seg.png", "pets/cats/a.b/1.seg.jpg"),
        ("{bucket}/{folder}{stem}.jpg", "1.png", "pets/1.jpg"),
        ("masks/{name}", "cats/1.png", "masks/cats/1.png"),
        ("{{{stem}}}", "cats/.hidden", "{.hidden}"),
        ("{folder}x{stem}", "cats/{name}.png", "cats/x{name}"),
    ],
)
def test_placeholders_are_filled_in(template: str, name: str, expected: str) -> None:
    assert expand(template, "pets", name) == expected


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("1.png", "at least one of {bucket}, {name}, {folder}, {stem}"),
        ("{{stem}}", "at least one of"),
        ("{steam}.png", "{steam} is none of {bucket}, {name}, {folder}, {stem}"),
        ("{}", "{} is none of"),
        ("{name!r}", "{name!r} is none of"),
        ("{name:>99999999}", "{name:>99999999} is none of"),
        ("{name.__class__}", "{name.__class__} is none of"),
        ("{name", "a brace itself is written twice"),
        ("{name}" + "a" * 1089, "at most 1089 bytes"),
    ],
)
def test_what_cannot_be_filled_in_is_refused(template: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        check(template)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("role", "picture", "$.role: expected one of image, mask"),
        ("like", "{folder}{stem}.jpg", "$.like: expected an object as bucket/name"),
        ("like", "images/1.jpg", "$.like: expected an object as bucket/name"),
        ("like", "{bucket}/{key}.jpg", "$.like: expected an object as bucket/name"),
        ("mask_members", ["Mask.png"], "$.mask_members: expected a list of 0..16 (an extension in lower case"),
        ("mask_members", [".png"], "$.mask_members: expected a list"),
        ("mask_members", "png", "$.mask_members: expected a list"),
        ("mask_members", ["png"] * 17, "$.mask_members: expected a list"),
        ("box_members", ["seg.png"], "$.box_members: 'seg.png' is among mask_members, too"),
    ],
)
def test_fields_that_cannot_work_are_refused_by_name(field: str, value: object, said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        spec.parse({"steps": [], field: value})
    assert str(caught.value).startswith(said)


def test_annotations_fields_are_part_of_the_pipeline() -> None:
    data = {
        "steps": [],
        "role": "mask",
        "like": "{bucket}/{folder}{stem}.jpg",
        "mask_members": ["png"],
        "box_members": [],
    }
    pipeline = spec.parse(data)
    assert (pipeline.role, pipeline.like, pipeline.mask_members, pipeline.box_members) == (
        "mask",
        "{bucket}/{folder}{stem}.jpg",
        ("png",),
        (),
    )
    assert spec.parse(spec.canonical(pipeline)) == pipeline
    assert spec.to_data(spec.parse({"steps": []})) == {"version": 1, "steps": [], "output": {"format": "jpeg"}}
