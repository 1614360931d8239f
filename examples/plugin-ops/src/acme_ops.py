"""A plugin op of acme's: darken the corners of an image, as much as a seeded draw says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from tvetl.spec import Param
from tvetl.spec.values import real, sequence
from tvetl_server.plugin_ops import Do, Draw, PluginOp, Size


def vignette(params: Mapping[str, Any], draw: Draw, size: Size) -> tuple[Do, Size]:
    """Draw now, do later: gives the function that darkens, and the size that comes out (here, the one that came)."""
    weakest, strongest = params["strength"]  # checked already: two numbers, as OPS says
    strength = draw.uniform(weakest, strongest)

    def do(image: Image.Image) -> Image.Image:
        shade = Image.radial_gradient("L").resize(size).point(lambda level: level * strength)
        return Image.composite(Image.new(image.mode, size), image, shade)

    return do, size


OPS = [PluginOp("Vignette", {"strength": Param(sequence(real(0, 1), 2, ordered=True), (0.2, 0.6))}, vignette)]
