"""Options that several commands have, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

LOCAL = "http://127.0.0.1:8080"

Endpoint = Annotated[
    str, typer.Option("--endpoint", "-e", envvar="AIS_ENDPOINT", help="The cluster.", show_envvar=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
EtlPipeline = Annotated[
    str, typer.Option("--pipeline", metavar="FILE", help="The ETL's pipeline, for who may not look at ETLs.")
]
