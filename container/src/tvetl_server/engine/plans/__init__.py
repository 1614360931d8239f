"""Plans: what is run for each image, chosen once for a pipeline.

- ``ops``: the table of ops that need no torch; a new op is a row there.
- ``exact``: a plan of these ops, and the fast one, where a JPEG may be decoded small.
- ``torchvision``: a plan for every other pipeline, whole. The pixels are those of the exact plan.
- ``choice``: which of them a pipeline gets. ``plan``: what they have in common.
"""

from tvetl_server.engine.plans.choice import has_torch, make_plan, needs_torch, only_torch, runnable, tables
from tvetl_server.engine.plans.plan import Plan, View, execute, step_errors

__all__ = [
    "Plan",
    "View",
    "execute",
    "has_torch",
    "make_plan",
    "needs_torch",
    "only_torch",
    "runnable",
    "step_errors",
    "tables",
]
