"""The contract: what a pipeline is, written once and read by client and server alike.

``model`` has a parsed pipeline. ``parse`` reads it by ``text`` (strict JSON and YAML), ``ops`` (the table of steps),
``forms`` (the image between two steps), ``output`` (formats), ``values`` (kinds of parameters) and ``limits``.
``arguments`` reads a request's ``etl_args``. ``seed`` has the draws of an object, ``opening`` how a file becomes RGB.
``pointwise`` splits a pipeline before the steps on single values, and ``table`` computes these. ``compose`` is
torchvision's form of a pipeline, ``schema`` the JSON Schema. ``templates`` and ``shards`` are rules for names.

No I/O, no torch, no aistore. Done elsewhere: running a pipeline (the server's engine), torchvision's own
objects (:mod:`tvetl.spec.compose`, which alone imports torch, and only when called).
"""

from __future__ import annotations

from tvetl.spec.arguments import parse_arguments, with_arguments
from tvetl.spec.forms import Form
from tvetl.spec.model import IMAGE_FORMATS, TENSOR_FORMATS, Arguments, Output, Pipeline, Step, Value
from tvetl.spec.ops import OPS, Op, Param
from tvetl.spec.parse import canonical, digest, forms, parse, to_data
from tvetl.spec.schema import schema
from tvetl.spec.seed import derive_seed

__all__ = [
    "IMAGE_FORMATS",
    "OPS",
    "TENSOR_FORMATS",
    "Arguments",
    "Form",
    "Op",
    "Output",
    "Param",
    "Pipeline",
    "Step",
    "Value",
    "canonical",
    "derive_seed",
    "digest",
    "forms",
    "parse",
    "parse_arguments",
    "schema",
    "to_data",
    "with_arguments",
]
