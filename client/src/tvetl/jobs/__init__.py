"""Jobs over buckets and lists of objects: begin what is left to do, watch it, report on every object.

``request`` names the objects, ``begin`` starts the job, ``run`` waits and finds failures, ``report`` is the result.
``provenance`` records which pipeline made what, so that a job can be repeated. ``destination`` compares these records
and the destination with a request, and ``results`` has the names of millions of results as digests. Not here: the
cluster's API (:mod:`tvetl.cluster`), and how results are printed (:mod:`tvetl.command`).
"""

from __future__ import annotations

from tvetl.jobs.begin import Job, begin, transform_bucket, transform_objects
from tvetl.jobs.report import Estimate, JobProgress, Report, failed_names
from tvetl.jobs.request import Rename, Request
from tvetl.jobs.run import Progress, estimate, wait
from tvetl.notation import expand

__all__ = [
    "Estimate", "Job", "JobProgress", "Progress", "Rename", "Report", "Request",
    "begin", "estimate", "expand", "failed_names", "transform_bucket", "transform_objects", "wait",
]  # fmt: skip
