"""Plans: what is run for each image, chosen once for a pipeline.

- ``ops``: the table of ops that need no torch; a new op is a row there.
- ``exact``: a plan of these ops, and ``fast``: the same where a JPEG may be decoded small.
- ``torchvision``: a plan for every other pipeline, whole. The pixels are the same either way.
"""

from tvetl_server.engine.plans.choice import has_torch, make_plan, runnable
from tvetl_server.engine.plans.plan import Job, Plan, device_steps, execute, execute_sample
from tvetl_server.engine.plans.stages import needs_torch, only_torch, tables

__all__ = [
    "Job",
    "Plan",
    "device_steps",
    "execute",
    "execute_sample",
    "has_torch",
    "make_plan",
    "needs_torch",
    "only_torch",
    "runnable",
    "tables",
]
