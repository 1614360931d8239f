"""The command: read the arguments, call one thing, print what came of it.

What a command needs is imported inside it: ``tvetl --help`` waits for neither the SDK nor torch.
Exit statuses are the errors' own (see docs/command.md); every error is a sentence and a hint, without a traceback.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from tvetl.errors import ArgumentsError, PipelineError, TvetlError, UsageError

if TYPE_CHECKING:
    from tvetl.cluster import Cluster
    from tvetl.jobs import JobProgress, Report
    from tvetl.spec import Pipeline

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="torchvision transforms where the images are: inside an AIStore cluster.",
)

Endpoint = Annotated[
    str, typer.Option("--endpoint", "-e", envvar="AIS_ENDPOINT", help="The cluster.", show_envvar=True)
]
LOCAL = "http://127.0.0.1:8080"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The ETL's name.", show_default=False)]
PipelineFile = Annotated[str, typer.Argument(help="A pipeline in YAML or JSON; - reads it here.", show_default=False)]
EtlOption = Annotated[str, typer.Option("--etl", help="The ETL to read through.")]


@app.command()
def validate(pipeline: PipelineFile, as_json: AsJson = False) -> None:
    """Check a pipeline, and print it in its canonical form with its digest."""
    from tvetl.spec import canonical, digest

    parsed = _pipeline(pipeline)
    if as_json:
        _print_json({"pipeline": json.loads(canonical(parsed)), "digest": digest(parsed)})
    else:
        _print(canonical(parsed))
        err.print(f"{len(parsed.steps)} steps to {parsed.output.format}, digest {digest(parsed)[:12]}")


@app.command()
def register(
    name: Name,
    pipeline: PipelineFile,
    endpoint: Endpoint = LOCAL,
    image: Annotated[str, typer.Option(help="The server's image.  [default: tvetl-server:<version>]")] = "",
    form: Annotated[str, typer.Option(help="auto, spec (a pod YAML) or runtime (image and environment).")] = "auto",
    pull: Annotated[str, typer.Option(help="IfNotPresent, Never or Always; the spec form's alone.")] = "IfNotPresent",
    env: Annotated[Optional[list[str]], typer.Option(help="A setting of the server, NAME=VALUE.")] = None,  # noqa: UP045
    timeout: Annotated[int, typer.Option(help="Seconds until every pod must be ready.")] = 300,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of an ETL of that name.")] = False,
    show_pod: Annotated[bool, typer.Option("--yaml", help="Only print the pod YAML; asks no cluster.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a pipeline as an ETL on every target of the cluster."""
    from tvetl.pod import DEFAULT_IMAGE, PodSpec

    pod = PodSpec(
        name,
        _pipeline(pipeline),
        image or DEFAULT_IMAGE,
        env=dict(_pair(item, "--env") for item in env or ()),
        pull_policy=_one_of(pull, "IfNotPresent", "Never", "Always", option="--pull"),  # type: ignore[arg-type]
        start_timeout=timeout,
    )
    if show_pod:
        _print(pod.to_yaml().rstrip())
        return
    with err.status(f"Starting {name}"):
        form = _one_of(form, "auto", "spec", "runtime", option="--form")
        done = _cluster(endpoint).register(pod, form=form, replace=replace)  # type: ignore[arg-type]
    said = "runs already, unchanged" if done.reused else f"is ready after {done.seconds:.1f} s ({done.form})"
    _print_json(asdict(done)) if as_json else _print(f"{name} {said}")


@app.command("list")
def list_etls(endpoint: Endpoint = LOCAL, as_json: AsJson = False) -> None:
    """All ETLs of the cluster."""
    etls = _cluster(endpoint).etls()
    if as_json:
        _print_json([asdict(etl) for etl in etls])
    else:
        _table(("name", "stage", "objects read"), [(etl.name, etl.stage, str(etl.objects)) for etl in etls])


@app.command()
def show(name: Name, endpoint: Endpoint = LOCAL, as_json: AsJson = False) -> None:
    """What an ETL runs, and what failed when read inline."""
    from tvetl.pod import PIPELINE_VARIABLE

    cluster = _cluster(endpoint)
    container = cluster.show(name)
    errors = cluster.errors(name)
    if as_json:
        _print_json({"name": name, "container": container and asdict(container), "errors": list(map(asdict, errors))})
        return
    if container:
        env = {key: value for key, value in container.env.items() if key != PIPELINE_VARIABLE}
        settings = " ".join(f"{key}={value}" for key, value in env.items())
        rows = [("image", container.image), ("pipeline", container.env.get(PIPELINE_VARIABLE, "")), ("env", settings)]
        _table((name, ""), [row for row in rows if row[1]])
    if errors:
        _table(("object", "code", "message"), [(e.object, e.code, e.message) for e in errors])


@app.command()
def logs(name: Name, endpoint: Endpoint = LOCAL, as_json: AsJson = False) -> None:
    """What an ETL's pods wrote, target by target."""
    written = _cluster(endpoint).logs(name)
    if as_json:
        _print_json(written)
        return
    for target, text in sorted(written.items()):
        err.print(f"--- {target}")
        _print(text.rstrip())


@app.command()
def stop(name: Name, endpoint: Endpoint = LOCAL) -> None:
    """Stop an ETL with its jobs; its errors and logs are gone then."""
    _cluster(endpoint).stop(name)


@app.command()
def start(name: Name, endpoint: Endpoint = LOCAL) -> None:
    """Start a stopped ETL again."""
    with err.status(f"Starting {name}"):
        _cluster(endpoint).start(name)


@app.command("rm")
def remove(name: Name, endpoint: Endpoint = LOCAL) -> None:
    """Stop an ETL and free its name."""
    _cluster(endpoint).unregister(name)


@app.command()
def get(
    path: Annotated[str, typer.Argument(metavar="BUCKET/OBJECT", show_default=False)],
    endpoint: Endpoint = LOCAL,
    etl: EtlOption = "",
    args: Annotated[str, typer.Option("--args", help='Arguments of this read, {"seed": 7, "epoch": 1}.')] = "",
    output: Annotated[str, typer.Option("--output", "-o", help="A file; - is here.")] = "-",
) -> None:
    """Read one object, through an ETL if one is named."""
    from tvetl.errors import ObjectFailed
    from tvetl.spec import parse_arguments

    if args:
        parse_arguments(args)  # refused here, with its place, before anything is sent
    if output == "-" and sys.stdout.isatty():
        raise UsageError("an image does not belong on a terminal", hint="Name a file with --output.")
    bucket, name = _object(path)
    try:
        data = _cluster(endpoint).get(bucket, name, etl, json.loads(args) if args else None)
    except ObjectFailed as error:
        message = f"{name}: {error.message} ({error.code})"
        raise ObjectFailed(message, code=error.code, status=error.status, hint=error.hint) from error
    if output == "-":
        sys.stdout.buffer.write(data)
    else:
        Path(output).write_bytes(data)


@app.command()
def transform(
    source: Annotated[str, typer.Argument(help="The bucket to read.", show_default=False)],
    destination: Annotated[str, typer.Argument(help="The bucket to write.", show_default=False)],
    etl: Annotated[str, typer.Option("--etl", help="The ETL to use.", show_default=False)],
    endpoint: Endpoint = LOCAL,
    prefix: Annotated[str, typer.Option(help="Only objects whose names begin so.")] = "",
    template: Annotated[str, typer.Option(help="Only a range: 'photo_{0..100}.jpg'.")] = "",
    name: Annotated[Optional[list[str]], typer.Option(help="Only this object; may be repeated.")] = None,  # noqa: UP045
    prepend: Annotated[str, typer.Option(help="Put before the names of the results: 'train/'.")] = "",
    ext: Annotated[Optional[list[str]], typer.Option(help="Another extension, jpg=npy.")] = None,  # noqa: UP045
    stop_on_error: Annotated[bool, typer.Option("--stop-on-error", help="End at the first object that fails.")] = False,
    errors: Annotated[Optional[Path], typer.Option(help="Write what failed here, a line of JSON each.")] = None,  # noqa: UP045
    timeout: Annotated[Optional[float], typer.Option(help="Seconds to wait for the job.")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Transform a bucket, or part of it, into another; Ctrl-C ends the job."""
    from tvetl import jobs

    if sum(map(bool, (prefix, template, name))) > 1:
        raise UsageError("--prefix, --template and --name exclude one another")
    cluster = _cluster(endpoint)
    rename = jobs.Rename(prepend, dict(_pair(item, "--ext") for item in ext or ()))
    go_on = not stop_on_error
    if template or name:
        job = jobs.transform_objects(
            cluster,
            source,
            destination,
            etl,
            names=name or None,
            template=template or None,
            rename=rename,
            continue_on_error=go_on,
        )
    else:
        job = jobs.transform_bucket(
            cluster, source, destination, etl, prefix=prefix, rename=rename, continue_on_error=go_on
        )
    try:
        with progress("objects", len(job.wanted)) as advance:
            report = jobs.wait(cluster, job, told(advance), timeout=timeout)
    except KeyboardInterrupt:
        cluster.abort(job.id)
        raise
    if errors:
        report.write_errors(errors)
    _print_json(report.to_data()) if as_json else tell(report)
    if report.aborted:
        raise typer.Exit(TvetlError.exit_code)
    if not report.ok:
        raise typer.Exit(4)


@app.command()
def local(
    root: Annotated[Path, typer.Option(help="A folder for buckets; made if missing.")] = Path("tvetl-local"),
    port: Annotated[int, typer.Option(help="Where to listen; 0 takes a free one.")] = 8080,
    targets: Annotated[int, typer.Option(help="How many targets, with a server each.", min=1, max=16)] = 1,
    allow: Annotated[Optional[list[str]], typer.Option(help="Run IMAGE=COMMAND, for images not ours.")] = None,  # noqa: UP045
) -> None:
    """Stand in for a cluster, on this machine and without Kubernetes, until Ctrl-C."""
    from tvetl.local import serve

    allowed = {image: shlex.split(command) for image, command in (_pair(item, "--allow") for item in allow or ())}
    serve(root, port=port, targets=targets, allow=allowed, log=_print)


# What several commands, and examples/demo.py, print


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with how many are done: a bar on a terminal, elsewhere a line every few seconds."""
    if err.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=err) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    said = time.monotonic()

    def advance(done: int) -> None:
        nonlocal said
        if time.monotonic() - said > 5:
            said = time.monotonic()
            err.print(f"{done} of {total} {what}")

    yield advance


def told(advance: Callable[[int], None]) -> Callable[[JobProgress], None]:
    """A job's progress for :func:`progress`; never beyond the total, as a list job may count on from an earlier one."""
    return lambda now: advance(min(now.done, now.total))


def tell(report: Report) -> None:
    """A job in a few lines: how many, how fast, and the first of what failed."""
    # We look every 0.3 s: of a shorter job than this the speed would be our own.
    rate = f" ({report.done / report.seconds:.0f} a second)" if report.seconds > 3 else ""
    _print(f"{report.done} of {report.wanted} objects in {report.seconds:.1f} s{rate}")
    if report.absent:
        _print(f"{len(report.absent)} names of the template are not in the source")
    if report.unsure:
        err.print(f"{report.unsure} objects were in the destination before, and were perhaps not written anew")
    if report.aborted:
        err.print(f"the job was aborted: {report.aborted}")
    if report.failed:
        err.print(f"{len(report.failed)} failed:")
        for error in report.failed[:10]:
            err.print(f"  {error.object}: {error.message} ({error.code})", markup=False)
        if len(report.failed) > 10:
            err.print(f"  and {len(report.failed) - 10} more; --errors FILE writes all of them")


def complain(error: TvetlError) -> None:
    """An error as people read it: what happened, every place of it, and what to try."""
    if isinstance(error, (PipelineError, ArgumentsError)):
        err.print("tvetl: this cannot work:")
        for problem in error.problems:
            err.print(f"  {problem}", markup=False)
    else:
        err.print(f"tvetl: {error.message}", markup=False)
    if error.hint:
        err.print(f"  {error.hint}", markup=False)


def _cluster(endpoint: str) -> Cluster:
    from tvetl.cluster import Cluster

    return Cluster(endpoint)


def _pipeline(path: str) -> Pipeline:
    from tvetl.spec import parse

    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path!r} cannot be read: {error}") from error
    return parse(text)


def _pair(item: str, option: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not key or not equals:
        raise UsageError(f"{option} {item!r}: expected NAME=VALUE")
    return key, value


def _one_of(value: str, *choices: str, option: str) -> str:
    if value not in choices:
        raise UsageError(f"{option} {value!r}: expected one of {', '.join(choices)}")
    return value


def _object(path: str) -> tuple[str, str]:
    provider, separator, rest = path.rpartition("://")
    bucket, slash, name = rest.partition("/")
    if not bucket or not slash or not name:
        raise UsageError(f"{path!r} does not name an object", hint="It looks like images/photo_0.jpg.")
    return provider + separator + bucket, name


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    if not out.is_terminal:
        for row in rows:
            _print("\t".join(row))
        return
    table = Table(*titles, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out.print(table, markup=False)


def _print(text: str) -> None:
    out.print(text, markup=False)


def _print_json(data: Mapping[str, object] | list[dict[str, object]] | object) -> None:
    _print(json.dumps(data, ensure_ascii=False))


def main() -> None:
    """The console script ``tvetl``. Usage errors (2) and Ctrl-C (130) are typer's own business."""
    try:
        app(prog_name="tvetl")
    except TvetlError as error:
        complain(error)
        sys.exit(error.exit_code)
