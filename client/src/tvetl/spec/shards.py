"""The members of a shard (``.tar``): WebDataset's key and extension of each, and which of them are images.

The key is part of what an image of a shard is drawn by, so server and client must split names alike.
"""

from __future__ import annotations

#: Last parts of extensions that name an image which is read.
IMAGES = frozenset([
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif", "ppm", "pgm", "pbm", "pnm",
])  # fmt: skip


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member: ``a/0001.Left.PNG`` is ``("a/0001", "left.png")``.

    The key ends at the first dot of the name's last part, and the extension is in lower case. None for what is part of
    no sample: a name without an extension or hidden (``.DS_Store``, macOS' ``._0001.jpg``), and ``__meta__`` or what
    lies in such a folder. WebDataset has the same, but for hidden files in a folder: it makes samples of them.
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    top = name.partition("/")[0]
    if not stem or not dot or (len(top) > 3 and top.startswith("__") and top.endswith("__")):
        return None
    return folder + slash + stem, extension.lower()
