"""Contact sheets, to look at before a job and after it.

``views`` asks an ETL for several draws of one object, saves them as a sheet, and makes them again from it. ``sheet``
and ``marks`` draw. ``replay`` makes a view by torchvision alone, and needs torch; ``moved`` is a view's image, boxes
and mask. Not here: timing (:mod:`tvetl.bench`).
"""

from __future__ import annotations

from tvetl.preview.sheet import Source, View, contact_sheet
from tvetl.preview.views import Again, Preview, Way, preview, read_record, replay_sheet

__all__ = ["Again", "Preview", "Source", "View", "Way", "contact_sheet", "preview", "read_record", "replay_sheet"]
