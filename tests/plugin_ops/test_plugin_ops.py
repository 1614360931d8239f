"""Plugin ops: data to the client, checked by the server that has them, and as repeatable as the built-in ones."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tvetl.cluster import Cluster
from tvetl.errors import ArgumentsError, PipelineError, RegistrationError
from tvetl.local import LocalCluster
from tvetl.pod import PodSpec
from tvetl.spec import Arguments, canonical, derive_seed, digest, parse, schema, with_arguments
from tvetl_server.engine import Engine
from tvetl_server.errors import TransformFailed
from tvetl_server.limits import Limits
from tvetl_server.plugin_ops import PluginOp

VIGNETTE: dict[str, Any] = {"op": "acme.Vignette", "strength": [0.3, 0.7]}


def pipeline(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"steps": list(steps), "output": {"format": "png"}, "seed": 7, **fields}


def pixels(body: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(body)))


def test_the_document_shows_the_example_as_it_is(example: Path, repository: Path) -> None:
    code = (example / "src" / "acme_ops.py").read_text(encoding="utf-8")
    assert f"```python\n{code}```" in (repository / "docs" / "image.md").read_text(encoding="utf-8")


# The client, which has no such package


def test_a_qualified_op_is_kept_as_plain_data() -> None:
    parsed = parse(pipeline({"op": "acme.Vignette", "strength": [0.25, 1], "name": "x", "deep": [[True], None]}))
    assert parse(canonical(parsed)) == parsed
    assert '{"op":"acme.Vignette","deep":[[true],null],"name":"x","strength":[0.25,1]}' in canonical(parsed)
    assert digest(parse(pipeline(VIGNETTE))) != digest(parse(pipeline({**VIGNETTE, "strength": [0.3, 0.8]})))


@pytest.mark.parametrize("value", [{"a": 1}, float("nan"), float("inf"), 2**64, object(), [[{}]]])
def test_its_parameters_are_plain_values(value: object) -> None:
    with pytest.raises(PipelineError, match=r"\$\.steps\[0\]\.strength: expected numbers, text"):
        parse(pipeline({"op": "acme.Vignette", "strength": value}))


@pytest.mark.parametrize("name", ["Acme.Vignette", "acme.", ".Vignette", "acme.vig nette", "a.b.c", "acme.V\n", "os/V"])
def test_other_names_are_unknown_ops(name: str) -> None:
    with pytest.raises(PipelineError, match="unknown op"):
        parse(pipeline({"op": name}))


def test_it_takes_and_gives_an_image() -> None:
    parse(pipeline({"op": "Grayscale"}, VIGNETTE, {"op": "ToTensor"}, output={"format": "npy"}))
    with pytest.raises(PipelineError, match=r"acme\.Vignette does not take a float32 tensor"):
        parse(pipeline({"op": "ToTensor"}, VIGNETTE, output={"format": "npy"}))


def test_the_schema_lets_it_pass() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(pipeline(VIGNETTE), schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(pipeline({"op": "acme/Vignette"}), schema())


def test_a_request_cannot_resize_what_is_not_known() -> None:
    with pytest.raises(ArgumentsError, match="exactly one step that has a size"):
        with_arguments(parse(pipeline({"op": "acme.Shrink", "size": 3})), Arguments(size=4, given=frozenset({"size"})))


def test_torchvision_has_no_such_transform() -> None:
    pytest.importorskip("torchvision")
    from tvetl.spec.compose import to_compose

    with pytest.raises(PipelineError, match=r"\$\.steps\[1\]\.op: an op of your own"):
        to_compose(parse(pipeline({"op": "RandomHorizontalFlip"}, VIGNETTE)))


# The engine that has it


@pytest.fixture
def plugins(acme: ModuleType) -> dict[str, PluginOp]:
    return {f"acme.{op.name}": op for op in acme.OPS}


@pytest.fixture(scope="session")
def photograph(photographs: list[Path]) -> bytes:
    return photographs[0].read_bytes()


@pytest.mark.parametrize(
    ("step", "complaint"),
    [
        ({"op": "acme.Vignette", "strength": [0.7, 0.3]}, r"\$\.steps\[0\]\.strength: expected a list of 2"),
        ({"op": "acme.Vignette", "strngth": 1}, r"\$\.steps\[0\]: unknown key 'strngth'; did you mean strength\?"),
        ({"op": "acme.Vignet"}, r"\$\.steps\[0\]\.op: acme\.Vignet is not installed .* it has acme\.Vignette"),
    ],
)
def test_its_server_checks_it_as_it_checks_built_in_ops(
    plugins: dict[str, PluginOp], step: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(PipelineError, match=complaint):
        Engine(parse(pipeline(step)), Limits(), plugins)


def test_a_server_without_it_names_it() -> None:
    with pytest.raises(PipelineError, match=r"acme\.Vignette is not installed in this container; it has none"):
        Engine(parse(pipeline(VIGNETTE)), Limits())


def test_its_draws_are_torchs(plugins: dict[str, PluginOp], photograph: bytes) -> None:
    """Written with torch.manual_seed and torch's own draws, the same pipeline gives the same pixels."""
    torch = pytest.importorskip("torch")
    from torchvision.transforms import v2

    steps = ({"op": "RandomResizedCrop", "size": 96}, VIGNETTE, {"op": "RandomHorizontalFlip"})
    engine = Engine(parse(pipeline(*steps)), Limits(), plugins)
    for view in range(8):
        body = engine.transform(photograph, "src/a.jpg", Arguments(view=view)).body
        torch.manual_seed(derive_seed(7, 0, view, "src/a.jpg"))
        image = v2.RandomResizedCrop(96)(Image.open(io.BytesIO(photograph)).convert("RGB"))
        strength = float(torch.empty(1).uniform_(0.3, 0.7))
        shade = Image.radial_gradient("L").resize(image.size).point(lambda level, by=strength: level * by)
        image = v2.RandomHorizontalFlip()(Image.composite(Image.new("RGB", image.size), image, shade))
        assert np.array_equal(pixels(body), np.asarray(image)), view


def test_it_gives_the_same_among_torchvisions_steps(photograph: bytes) -> None:
    """Four draws of a plugin op, with and without torch, between other draws of the same stream."""
    pytest.importorskip("torchvision")
    seen: list[tuple[object, ...]] = []

    def plan(params: object, draw: Any, size: tuple[int, int]) -> Any:
        seen.append((draw.rand(), draw.uniform(-1, 2), draw.below(1000), draw.permutation(5)))
        return (lambda image: image), size

    plugins = {"test.Look": PluginOp("Look", {}, plan)}
    flip = {"op": "RandomVerticalFlip"}
    for more in ([], [{"op": "RandomRotation", "degrees": 0}]):  # only torchvision rotates; nothing is drawn after it
        engine = Engine(parse(pipeline(flip, {"op": "test.Look"}, flip, *more)), Limits(), plugins)
        engine.transform(photograph, "src/a.jpg", Arguments())
    without, with_torch = seen
    assert without == with_torch


@pytest.mark.parametrize(
    ("do", "complaint"),
    [
        (lambda image: image.convert("L"), r"promised an image RGB of \(64, 48\), and gave L of \(64, 48\)"),
        (lambda image: image.resize((3, 3)), r"and gave RGB of \(3, 3\)"),
        (lambda image: None, "and gave NoneType"),
        (lambda image: image.no_such_thing(), "A step cannot take this image"),
    ],
)
def test_one_that_breaks_its_promise_fails_that_object(do: Callable[..., Any], complaint: str) -> None:
    plugins = {"test.Bad": PluginOp("Bad", {}, lambda params, draw, size: (do, size))}
    engine = Engine(parse(pipeline({"op": "Resize", "size": [48, 64]}, {"op": "test.Bad"})), Limits(), plugins)
    with pytest.raises(TransformFailed, match=complaint):
        engine.transform(jpeg(), "src/a.jpg", Arguments())


def test_one_that_draws_on_its_image_spoils_no_other_view() -> None:
    """Views share one decoded image; here every other view is blackened in place."""

    def plan(params: object, draw: Any, size: tuple[int, int]) -> Any:
        turns.append(draw)
        return (blacken if len(turns) == 1 else lambda image: image), size

    def blacken(image: Image.Image) -> Image.Image:
        image.paste((0, 0, 0), (0, 0, *image.size))
        return image

    turns: list[object] = []
    plugins = {"test.Black": PluginOp("Black", {}, plan)}
    tensors = pipeline({"op": "test.Black"}, {"op": "PILToTensor"}, output={"format": "npy"})
    engine = Engine(parse(tensors), Limits(), plugins)
    body = engine.transform(jpeg(), "src/a.jpg", Arguments(views=2)).body
    first, second = np.load(io.BytesIO(body))
    assert not first.any()
    assert second.any()


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "JPEG")
    return file.getvalue()


# The process, and a cluster


def command(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], **settings}
    words = (sys.executable, "-m", "tvetl_server.wsgi", *words)
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_server_lists_the_installed_ops(packages: Path) -> None:
    ours, theirs = command("--ops"), command("--ops", PYTHONPATH=str(packages))
    assert theirs.returncode == 0, theirs.stderr
    assert json.loads(theirs.stdout) == [*json.loads(ours.stdout), "acme.Vignette"]


def test_check_checks_its_parameters(packages: Path) -> None:
    bad = json.dumps(pipeline({**VIGNETTE, "strength": [2, 3]}))
    done = command("--check", TVETL_PIPELINE=bad, PYTHONPATH=str(packages))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("tvetl-server: PipelineError: $.steps[0].strength: expected a list")
    good = command("--check", TVETL_PIPELINE=json.dumps(pipeline(VIGNETTE)), PYTHONPATH=str(packages))
    assert good.stdout.split() == [canonical(parse(pipeline(VIGNETTE))), digest(parse(pipeline(VIGNETTE)))]


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        ("raise RuntimeError('no licence')", "the ops of bad-ops cannot be loaded: RuntimeError: no licence"),
        ("OPS = ['Vignette']", "bad-ops: expected bad_ops:OPS to be a list of PluginOp"),
        ("from tvetl_server.plugin_ops import OwnOp as O\nOPS = [O('A', {}, print)] * 2", "bad.A is declared twice"),
    ],
)
def test_a_broken_package_is_named_and_harms_no_pipeline_without_it(
    tmp_path: Path, module: str, complaint: str
) -> None:
    (tmp_path / "bad_ops.py").write_text(module)
    metadata = tmp_path / "bad_ops-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-ops\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[tvetl.ops]\nbad = bad_ops:OPS\n")
    uses = command("--check", TVETL_PIPELINE=json.dumps(pipeline({"op": "bad.A"})), PYTHONPATH=str(tmp_path))
    assert uses.returncode == 2
    assert complaint in uses.stderr.splitlines()[-1]
    without = command(
        "--check", TVETL_PIPELINE=json.dumps(pipeline({"op": "Resize", "size": 8})), PYTHONPATH=str(tmp_path)
    )
    assert without.returncode == 0, without.stderr


def test_a_client_without_the_package_registers_and_reads(
    example: Path, packages: Path, plugins: dict[str, PluginOp], photograph: bytes, tmp_path: Path
) -> None:
    parsed = parse((example / "pipeline.yaml").read_text(encoding="utf-8"))
    with LocalCluster(tmp_path) as local:
        cluster = Cluster(local.endpoint)
        cluster.create_bucket("photos")
        cluster.put("photos", "a.png", photograph)
        cluster.register(PodSpec("plugin-ops", parsed, env={"PYTHONPATH": str(packages)}, start_timeout=60))
        body = cluster.get("photos", "a.png", "plugin-ops")
        assert body == Engine(parsed, Limits(), plugins).transform(photograph, "photos/a.png", Arguments()).body
        with pytest.raises(RegistrationError, match=r"acme\.Vignette is not installed in this container"):
            cluster.register(PodSpec("no-plugin-ops", parsed, start_timeout=60))
