"""Make a small set of images as Oxford-IIIT Pet lays its own out, to try docs/pets.md without that download.

    python examples/pets.py [FOLDER]

FOLDER (pets by default) gets images/*.jpg and annotations/{trimaps/*.png, xmls/*.xml, list.txt}. The photographs are
four of scikit-image's, which are free of rights. Their trimaps and boxes are rough, and drawn here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

#: What a trimap's numbers mean, as in Oxford-IIIT Pet.
FOREGROUND, BACKGROUND, UNCLEAR = 1, 2, 3
#: Pixels around an edge that are neither.
_EDGE = 5

Points = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pet:
    """One photograph: its label, the box of its head, and its outline as ellipses (two corners) and polygons."""

    label: str
    box: tuple[int, int, int, int]
    shapes: tuple[Points, ...]


PETS = {
    "astronaut.png": Pet(
        "person",
        (150, 12, 304, 190),
        (
            ((150, 12), (304, 150)),
            ((110, 148), (304, 296)),
            ((180, 130), (260, 130), (300, 240), (345, 320), (360, 511), (20, 511), (25, 380), (60, 260), (120, 210)),
            ((280, 345), (505, 560)),
        ),
    ),
    "chelsea.png": Pet("cat", (30, 0, 365, 299), (((33, -60), (365, 330)), ((10, 90), (330, 420)))),
    "coffee.png": Pet("cup", (171, 18, 408, 289), (((77, 60), (479, 383)), ((171, 18), (408, 289)))),
    "rocket.jpg": Pet("rocket", (309, 126, 338, 408), (((311, 170), (323, 126), (337, 170), (337, 406), (311, 406)),)),
}

_XML = """<annotation>
  <filename>{name}.jpg</filename>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
  <object><name>{label}</name>
    <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
  </object>
</annotation>
"""


def trimap(pet: Pet, size: tuple[int, int]) -> Image.Image:
    """Mode L, with the three numbers."""
    shape = Image.new("L", size, 0)
    draw = ImageDraw.Draw(shape)
    for points in pet.shapes:
        if len(points) == 2:
            draw.ellipse(points, fill=255)
        else:
            draw.polygon(points, fill=255)
    inner, outer = shape.filter(ImageFilter.MinFilter(_EDGE)), shape.filter(ImageFilter.MaxFilter(_EDGE))
    mask = Image.new("L", size, BACKGROUND)
    mask.paste(UNCLEAR, mask=outer)
    mask.paste(FOREGROUND, mask=inner)
    return mask


def make(folder: Path) -> None:
    """Write the set into a folder, which need not exist."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise SystemExit("scikit-image's photographs are missing: pip install --no-deps scikit-image")
    for each in ("images", "annotations/trimaps", "annotations/xmls"):
        (folder / each).mkdir(parents=True, exist_ok=True)
    labels = []
    for file, pet in PETS.items():
        name = f"{pet.label}_{len(labels) + 1}"
        with Image.open(Path(package.origin).parent / "data" / file) as image:
            image.convert("RGB").save(folder / "images" / f"{name}.jpg", quality=95)
            size = image.size
        trimap(pet, size).save(folder / "annotations" / "trimaps" / f"{name}.png")
        xml = _XML.format(name=name, width=size[0], height=size[1], label=pet.label, box=pet.box)
        (folder / "annotations" / "xmls" / f"{name}.xml").write_text(xml, encoding="utf-8")
        labels.append(f"{name} {len(labels) + 1} 1 1\n")
    (folder / "annotations" / "list.txt").write_text("".join(labels), encoding="utf-8")


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else "pets")
    make(place)
    print(f"wrote {len(PETS)} images with trimaps and boxes into {place}/")
