"""The commands: each reads its arguments, calls one function and prints the result.

A command imports what it needs inside its function: ``tvetl --help`` waits for neither the SDK nor torch. Exit
statuses are the errors' own (see docs/command.md); every error is a sentence and a hint, without a traceback.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tvetl.command import config, folders
from tvetl.command.options import LOCAL, AsJson, Endpoint, EtlPipeline
from tvetl.command.terminal import (
    note,
    print_conformance,
    print_error,
    print_estimate,
    print_json,
    print_line,
    print_report,
    print_table,
    progress,
    working,
)
from tvetl.errors import NotReachable, TvetlError, UsageError
from tvetl.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tvetl.cluster import Cluster
    from tvetl.conformance import Case, Subject
    from tvetl.jobs import Request
    from tvetl.spec import Pipeline

app = config.App(
    no_args_is_help=True,
    invoke_without_command=True,
    context_settings={"auto_envvar_prefix": "TVETL"},
    pretty_exceptions_enable=False,
    help="torchvision transforms where the images are: inside an AIStore cluster.",
)

PullPolicy = Literal["IfNotPresent", "Never", "Always"]
Form = Literal["auto", "spec", "runtime"]


def _etl_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completions of an ETL's name: those of the cluster, if it answers."""
    try:
        etls = _cluster(str(ctx.params.get("endpoint") or LOCAL)).etls()
    except TvetlError:
        return []
    return [etl.name for etl in etls if etl.name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="The ETL's name.", show_default=False, autocompletion=_etl_names)]
PipelineFile = Annotated[str, typer.Argument(help="A pipeline in YAML or JSON; - reads it here.", show_default=False)]
EtlOption = Annotated[str, typer.Option("--etl", help="The ETL to read through.", autocompletion=_etl_names)]


@app.callback()
def _settings(
    ctx: typer.Context,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print all options and their origins.", allow_from_autoenv=False)
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", allow_from_autoenv=False)] = False,
) -> None:
    try:
        config.load(ctx)
    except UsageError as error:
        print_error(error, as_json="--json" in sys.argv)
        raise typer.Exit(error.exit_code) from error
    if version:
        from tvetl import __version__

        print_line(__version__)
    elif show_config and ctx.invoked_subcommand is None:
        config.print_all(ctx)


@app.command()
def validate(
    pipeline: Annotated[str, typer.Argument(help="A pipeline in YAML or JSON; - reads it here.")] = "",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of pipelines.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a pipeline, and print it in its canonical form with its digest."""
    from tvetl import spec

    if schema:
        print_line(json.dumps(spec.schema(), indent=None if as_json else 2))
        return
    if not pipeline:
        raise UsageError("name a pipeline, or ask for the --schema")
    parsed = _pipeline(pipeline)
    if as_json:
        print_json({"pipeline": json.loads(spec.canonical(parsed)), "digest": spec.digest(parsed)})
    else:
        print_line(spec.canonical(parsed))
        steps = f"{len(parsed.steps)} step{'' if len(parsed.steps) == 1 else 's'}"
        note(f"{steps} to {parsed.output.format}, digest {spec.digest(parsed)[:12]}")


@app.command()
def register(
    name: Name,
    pipeline: PipelineFile,
    endpoint: Endpoint = LOCAL,
    image: Annotated[
        str,
        typer.Option(help="The server's image; else tvetl-server:<version>, with -cuda behind it for a --gpu."),
    ] = "",
    gpu: Annotated[
        str,
        typer.Option(
            metavar="RESOURCE",
            help="One of these for each pod: nvidia.com/gpu, nvidia.com/mig-1g.10gb; the spec form's alone.",
        ),
    ] = "",
    runtime_class: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The RuntimeClass of the pods: nvidia, where containers get no GPU without it; the spec form's alone.",
        ),
    ] = "",
    form: Annotated[Form, typer.Option(help="A pod YAML (spec), or image and environment (runtime).")] = "auto",
    pull: Annotated[
        PullPolicy, typer.Option(help="When nodes fetch the image; the spec form's alone.")
    ] = "IfNotPresent",
    env: Annotated[list[str] | None, typer.Option(help="A setting of the server, NAME=VALUE.")] = None,
    env_from: Annotated[
        list[str] | None,
        typer.Option(help="A setting of Kubernetes' own, NAME=secret/SECRET/KEY or NAME=configmap/MAP/KEY."),
    ] = None,
    timeout: Annotated[int, typer.Option(help="Seconds until every pod must be ready.")] = 300,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of an ETL of that name.")] = False,
    show_pod: Annotated[bool, typer.Option("--yaml", help="Only print the pod YAML; asks no cluster.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a pipeline as an ETL on every target of the cluster."""
    from tvetl.pod import DEFAULT_IMAGE, GPU_IMAGE, PodSpec, Reference, Resources

    pod = PodSpec(
        name,
        _pipeline(pipeline),
        image or (GPU_IMAGE if gpu else DEFAULT_IMAGE),
        resources=Resources.with_gpu(gpu) if gpu else Resources(),
        runtime_class=runtime_class,
        env=dict(_pair(item, "--env") for item in env or ()),
        env_from={key: Reference.of(of) for key, of in (_pair(item, "--env-from") for item in env_from or ())},
        pull_policy=pull,
        start_timeout=timeout,
    )
    if show_pod:
        from tvetl.cluster.registration import trusting

        pod = trusting(pod, endpoint)
        print_json(pod.to_data()) if as_json else print_line(pod.to_yaml().rstrip())
        return
    with working(f"starting {name}, for up to {timeout} s"):
        done = _cluster(endpoint).register(pod, form=form, replace=replace)
    state = "runs already, unchanged" if done.reused else f"is ready after {done.seconds:.1f} s ({done.form})"
    print_json(asdict(done)) if as_json else print_line(f"{name} {state}")


@app.command("list")
def list_etls(endpoint: Endpoint = LOCAL, as_json: AsJson = False) -> None:
    """All ETLs of the cluster."""
    etls = _cluster(endpoint).etls()
    if as_json:
        print_json([asdict(etl) for etl in etls])
    else:
        print_table(("name", "stage", "objects read"), [(etl.name, etl.stage, str(etl.objects)) for etl in etls])
        if not etls:
            note("there is no ETL; `tvetl register` starts one")


@app.command()
def show(name: Name, endpoint: Endpoint = LOCAL, as_json: AsJson = False) -> None:
    """What an ETL runs, and what failed when read inline."""
    from tvetl.pod import PIPELINE_VARIABLE

    cluster = _cluster(endpoint)
    container = cluster.show(name)
    errors = cluster.errors(name)
    if as_json:
        print_json({"name": name, "container": container and asdict(container), "errors": list(map(asdict, errors))})
        return
    if container:
        env = {key: value for key, value in container.env.items() if key != PIPELINE_VARIABLE}
        settings = " ".join(f"{key}={_first_line(value)}" for key, value in env.items())
        rows = [("image", container.image), ("pipeline", container.env.get(PIPELINE_VARIABLE, "")), ("env", settings)]
        print_table((name, "value"), [row for row in rows if row[1]])
    if errors:
        print_table(("object", "code", "message"), [(e.object, e.code, e.message) for e in errors])


def _first_line(value: str) -> str:
    """A setting's value; of a text as long as a certificate the first line and the number of all."""
    first, *others = value.strip().splitlines() or [""]
    return f"{first} ... ({1 + len(others)} lines)" if others else value


@app.command()
def logs(name: Name, endpoint: Endpoint = LOCAL, as_json: AsJson = False) -> None:
    """What an ETL's pods wrote, target by target."""
    written = _cluster(endpoint).logs(name)
    if as_json:
        print_json(written)
        return
    for target, text in sorted(written.items()):
        print_line(f"--- {target}")
        print_line(text.rstrip())


@app.command()
def stop(name: Name, endpoint: Endpoint = LOCAL, as_json: AsJson = False) -> None:
    """Stop an ETL with its jobs; its errors and logs are gone then."""
    _cluster(endpoint).stop(name)
    if as_json:
        print_json({"name": name, "stage": "Aborted"})


@app.command()
def start(name: Name, endpoint: Endpoint = LOCAL, as_json: AsJson = False) -> None:
    """Start a stopped ETL again."""
    with working(f"starting {name}"):
        _cluster(endpoint).start(name)
    if as_json:
        print_json({"name": name, "stage": "Running"})


@app.command("rm")
def remove(name: Name, endpoint: Endpoint = LOCAL, as_json: AsJson = False) -> None:
    """Stop an ETL and free its name."""
    _cluster(endpoint).unregister(name)
    if as_json:
        print_json({"name": name, "stage": None})


app.command()(folders.put)


@app.command()
def get(
    path: Annotated[str, typer.Argument(metavar="BUCKET[/OBJECT]", show_default=False)],
    folder: Annotated[Path | None, typer.Argument(help="For a bucket's objects, as files.", show_default=False)] = None,
    endpoint: Endpoint = LOCAL,
    etl: EtlOption = "",
    pipeline: EtlPipeline = "",
    args: Annotated[str, typer.Option("--args", help='Arguments of this read, {"seed": 7, "epoch": 1}.')] = "",
    output: Annotated[str, typer.Option("--output", "-o", help="A file; - is here.")] = "-",
    prefix: Annotated[str, typer.Option(help="Into a folder: only objects whose names begin so.")] = "",
    overwrite: folders.Overwrite = False,
    content: folders.Content = False,
    dry_run: folders.DryRun = False,
    threads: folders.Threads = 8,
    as_json: AsJson = False,
) -> None:
    """Read one object, through an ETL if one is named; or BUCKET FOLDER: a bucket's objects into files."""
    from tvetl.errors import ObjectFailed
    from tvetl.spec import parse_arguments

    if folder:
        if etl or pipeline or args or output != "-":
            hint = f"`tvetl transform {path} RESULTS --etl NAME`, and then `tvetl get RESULTS {folder}`."
            raise UsageError("--etl, --pipeline, --args and --output are for one object, not for a folder", hint=hint)
        folders.get_folder(
            endpoint, path, folder, prefix, threads,
            overwrite=overwrite, content=content, dry_run=dry_run, as_json=as_json,
        )  # fmt: skip
        return
    if prefix or overwrite or content or dry_run:
        hint = "`tvetl get BUCKET FOLDER` writes a bucket's objects into a folder."
        raise UsageError("--prefix, --overwrite, --content and --dry-run are for a folder", hint=hint)
    if args:
        parse_arguments(args)  # refused with its place, before anything is sent
    if output == "-" and (as_json or sys.stdout.isatty()):
        raise UsageError("an image does not belong on a terminal, or into JSON", hint="Name a file with --output.")
    bucket, name = _object(path)
    try:
        data = _cluster(endpoint, etl, pipeline).get(bucket, name, etl, json.loads(args) if args else None)
    except ObjectFailed as error:
        message = f"{name}: {error.message} ({error.code})"
        raise ObjectFailed(message, code=error.code, status=error.status, hint=error.hint) from error
    if output == "-":
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # the reader has had enough, as `head`
            raise
        except OSError as error:
            raise TvetlError(f"standard output takes no more: {error.strerror}") from error
    else:
        write_whole(Path(output), data)
    if as_json:
        print_json({"object": name, "bytes": len(data), "output": output})


@app.command()
def transform(
    source: Annotated[str, typer.Argument(help="The bucket to read.", show_default=False)],
    destination: Annotated[str, typer.Argument(help="The bucket to write.", show_default=False)],
    etl: Annotated[str, typer.Option("--etl", help="The ETL to use.", show_default=False, autocompletion=_etl_names)],
    endpoint: Endpoint = LOCAL,
    pipeline: EtlPipeline = "",
    prefix: Annotated[str, typer.Option(help="Only objects whose names begin so.")] = "",
    template: Annotated[str, typer.Option(help="Only a range: 'photo_{0..100}.jpg'.")] = "",
    name: Annotated[list[str] | None, typer.Option(help="Only this object; may be repeated.")] = None,
    list_file: Annotated[str, typer.Option("--list", help="Only the objects that this file names, one a line.")] = "",
    retry: Annotated[str, typer.Option(help="Only the objects of an --errors file.")] = "",
    prepend: Annotated[str, typer.Option(help="Put before the names of the results: 'train/'.")] = "",
    ext: Annotated[list[str] | None, typer.Option(help="Another extension, jpg=npy; may be repeated.")] = None,
    workers: Annotated[
        int,
        typer.Option(help="Objects that a target reads at once; 0: one for each mountpath, -1: one.", min=-1),
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Store nothing; transform a sample, and estimate.")
    ] = False,
    sample: Annotated[int, typer.Option(help="Objects that a dry run transforms.", min=1)] = 20,
    again: Annotated[bool, typer.Option("--again", help="Also what is there already, by the same pipeline.")] = False,
    stop_on_error: Annotated[bool, typer.Option("--stop-on-error", help="End at the first object that fails.")] = False,
    on_interrupt: Annotated[
        Literal["stop", "leave"], typer.Option(help="What Ctrl-C does to the job in the cluster.")
    ] = "stop",
    errors: Annotated[str, typer.Option(help="Write what failed here, a line of JSON each.")] = "errors.jsonl",
    reasons: Annotated[
        int | None,
        typer.Option(help="Read only so many failed objects again for their reason; else all.", min=0),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait for the job.")] = None,
    as_json: AsJson = False,
) -> None:
    """Transform a bucket, or part of it, into another: what is missing there, or was made by another pipeline."""
    from tvetl import jobs

    if sum(map(bool, (prefix, template, name, list_file, retry))) > 1:
        raise UsageError("--prefix, --template, --name, --list and --retry exclude one another")
    names = name or (folders.lines_of(list_file, "object") if list_file else None)
    names = names or (jobs.failed_names(Path(retry)) if retry else None)
    cluster = _cluster(endpoint, etl, pipeline)
    request = jobs.Request(
        source,
        destination,
        etl,
        prefix=prefix,
        names=tuple(names) if names is not None else None,
        template=template or None,
        rename=jobs.Rename.of(prepend, [_pair(item, "--ext") for item in ext or ()]),
        continue_on_error=not stop_on_error,
        again=again,
        workers=workers,
    )
    if dry_run:
        found = jobs.estimate(cluster, request, sample)
        print_json(found.to_data()) if as_json else print_estimate(found)
    else:
        _run_job(cluster, request, Path(errors) if errors else None, reasons, timeout, on_interrupt, as_json)


def _run_job(
    cluster: Cluster,
    request: Request,
    errors: Path | None,
    reasons: int | None,
    timeout: float | None,
    on_interrupt: Literal["stop", "leave"],
    as_json: bool,
) -> None:
    """Run a job from its start to its exit status."""
    from tvetl import jobs

    try:
        job = jobs.begin(cluster, request)
        with progress("objects", job.total) as advance:
            report = jobs.wait(cluster, job, advance.job, timeout=timeout, reasons=reasons, on_interrupt=on_interrupt)
    except KeyboardInterrupt:
        if on_interrupt == "leave":
            note("The job runs on in the cluster; the same command again waits for it and does what is left.")
        raise
    written = errors is not None and (bool(report.failed) or errors.exists())
    if errors is not None and written:
        report.write_errors(errors)
    named_in = str(errors) if written and report.failed else ""
    print_json({**report.to_data(), "errors": named_in}) if as_json else print_report(report, named_in)
    if report.aborted:
        raise typer.Exit(TvetlError.exit_code)
    if not report.ok:
        raise typer.Exit(4)


@app.command()
def preview(
    path: Annotated[str, typer.Argument(metavar="BUCKET/OBJECT", show_default=False)],
    etl: Annotated[
        str, typer.Option("--etl", help="The ETL to look at.", show_default=False, autocompletion=_etl_names)
    ],
    endpoint: Endpoint = LOCAL,
    pipeline: EtlPipeline = "",
    views: Annotated[int, typer.Option(help="How many draws.", min=1, max=64)] = 8,
    seed: Annotated[int | None, typer.Option(help="Of the draws; else the pipeline's, else 0.")] = None,
    epoch: Annotated[int, typer.Option(help="Of the draws.", min=0)] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="The contact sheet.")] = Path("sheet.png"),
    boxes: Annotated[
        Path | None, typer.Option(help="Draw the object's boxes, from COCO's JSON or Pascal VOC's XML.")
    ] = None,
    masks: Annotated[str, typer.Option(help="Draw the object's mask, called so in the bucket: masks/{stem}.png")] = "",
    as_json: AsJson = False,
) -> None:
    """What an ETL makes of one object: a contact sheet with crop boxes, seeds and parameters."""
    from tvetl.preview import preview as look

    bucket, name = _object(path)
    found, labels = _boxes_of(name, boxes) if boxes else (None, [])
    made = look(
        _cluster(endpoint, etl, pipeline), bucket, name, etl,
        views=views, seed=seed, epoch=epoch, boxes=found, labels=labels, masks=masks,
    )  # fmt: skip
    made.save(output)
    if as_json:
        rows = [
            {"view": v.view, "seed": v.seed, "drawn": v.drawn, "box": v.box, "equal": v.equal}
            | ({"boxes": v.marks.boxes, "kept": v.kept} if boxes and v.marks else {})
            for v in made.views
        ]
        print_json({"file": str(output), "seed": made.source.seed, "epoch": epoch, "views": rows})
        return
    print_line(f"{output}: {len(made.views)} views, seed {made.source.seed}, epoch {epoch}")
    if any(view.equal is None for view in made.views):
        note("no crop boxes: torch is not installed here")
    if unequal := sum(view.equal is False for view in made.views):
        note(f"{unequal} views are not what torchvision makes of this pipeline: is it the ETL's?")


def _boxes_of(name: str, path: Path) -> tuple[list[list[float]], list[str]]:
    """An object's boxes in a file or folder of annotations, and their labels as texts."""
    try:
        from tvetl.datasets import read_coco, read_voc
    except ImportError as error:
        raise UsageError(
            "reading boxes needs PyTorch, which is not installed", hint="pip install 'tvetl[torch]'"
        ) from error
    is_voc = path.is_dir() or path.suffix.lower() == ".xml"
    table = read_voc(path, empty="keep") if is_voc else read_coco(path, empty="keep")
    table.check([name])
    found = table[name]
    labels = found.labels if isinstance(found.labels, tuple) else found.labels.tolist()
    texts = [label if isinstance(label, str) else table.classes.get(label, str(label)) for label in labels]
    return found.boxes.tolist(), texts


@app.command()
def replay(
    sheet: Annotated[Path, typer.Argument(help="A contact sheet of `tvetl preview`.", show_default=False)],
    endpoint: Endpoint = LOCAL,
    view: Annotated[list[int] | None, typer.Option(help="Only this view; may be repeated.")] = None,
    way: Annotated[
        Literal["etl", "torchvision"], typer.Option("--with", help="The ETL again, or torchvision alone.")
    ] = "etl",
    original: Annotated[Path | None, typer.Option(help="The original as a file; asks no cluster.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder for what comes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the views of a contact sheet again, and print whether they are equal; status 1 where one is not."""
    from tvetl.preview import replay_sheet

    made = replay_sheet(_cluster(endpoint), sheet, view or (), way=way, original=original)
    rows = [(again.view, again.equal, str(again.save(output)) if output else "") for again in made]
    if as_json:
        print_json([dict(zip(("view", "equal", "file"), row, strict=True)) for row in rows])
    else:
        print_table(
            ("view", "result", "file"), [(str(n), "equal" if equal else "NOT equal", file) for n, equal, file in rows]
        )
    if not all(again.equal for again in made):
        raise typer.Exit(TvetlError.exit_code)


@app.command()
def bench(
    bucket: Annotated[str, typer.Argument(help="A bucket of images.", show_default=False)],
    etl: Annotated[
        str, typer.Option("--etl", help="An ETL that ends in a tensor.", show_default=False, autocompletion=_etl_names)
    ],
    endpoint: Endpoint = LOCAL,
    prefix: Annotated[str, typer.Option(help="Only objects whose names begin so.")] = "",
    images: Annotated[int, typer.Option(help="At most so many, each round.", min=1)] = 512,
    workers: Annotated[int, typer.Option(help="DataLoader workers.", min=1)] = 2,
    batch: Annotated[int, typer.Option(help="Images a batch.", min=1)] = 32,
    rounds: Annotated[int, typer.Option(help="Timed rounds, the sides in turns.", min=1)] = 5,
    as_json: AsJson = False,
) -> None:
    """Compare training input: torchvision in DataLoader workers with the same tensors made by the cluster."""
    try:
        from tvetl.bench.compare import TITLES
        from tvetl.bench.compare import bench as compare
    except ImportError as error:
        raise UsageError("this needs PyTorch, which is not installed", hint="pip install 'tvetl[torch]'") from error
    with working(f"comparing {rounds} rounds of {images} images at most"):
        done = compare(
            _cluster(endpoint), bucket, etl, prefix=prefix, most=images, workers=workers, batch=batch, rounds=rounds
        )
    if as_json:
        print_json(asdict(done))
    else:
        print_table(TITLES, done.rows())
        print_line(f"{done.equal} of {done.images} images equal on all sides; median (range) of {done.rounds} rounds")
        print_line("CPU time is that of each side's own process and its workers.")
    if done.equal != done.images:
        raise typer.Exit(TvetlError.exit_code)


@app.command()
def doctor(endpoint: Endpoint = LOCAL, as_json: AsJson = False) -> None:
    """What is wrong with the cluster, and what to do about it; changes nothing."""
    from tvetl.command.doctor import examine

    findings = examine(endpoint)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [(finding.level, finding.check, finding.message) for finding in findings]
        print_table(("level", "check", "finding"), rows)
        for finding in findings:
            if finding.hint:
                print_line(f"{finding.check}: {finding.hint}")
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(NotReachable.exit_code if findings[0].level == "fail" else TvetlError.exit_code)


@app.command()
def conformance(
    url: Annotated[
        str, typer.Argument(help="Where the server listens: http://127.0.0.1:8000", show_default=False)
    ] = "",
    root: Annotated[
        Path | None,
        typer.Option(help="A folder that the server may read by file name, and we may write; else no such cases."),
    ] = None,
    seen_as: Annotated[str, typer.Option(help="That folder's name as the server sees it, if it has another.")] = "",
    target_url: Annotated[
        str, typer.Option(help="The AIS_TARGET_URL it was started with, its host one of ours; else no direct puts.")
    ] = "",
    sample: Annotated[
        Path | None,
        typer.Option("--object", help="An object that the server transforms; else a small JPEG."),
    ] = None,
    args: Annotated[str, typer.Option(help="Arguments that it takes; else a seed and an epoch.")] = "",
    ready: Annotated[str, typer.Option(help="Its readiness path.")] = "/health",
    case: Annotated[list[str] | None, typer.Option(help="Only this case; may be repeated.")] = None,
    must: Annotated[bool, typer.Option("--must", help="Only what AIStore cannot do without.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Only list the cases; asks no server.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.", min=1)] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Check any hpush server against AIStore's protocol, case by case; status 1 where one fails.

    Cases by file name need --root: a folder that the server reads under the
    same name, or under the one that --seen-as gives.

    Cases with other targets and next stages need --target-url: start the server
    with direct_put=true and an AIS_TARGET_URL, and give the same URL here, like
    http://127.0.0.1:9/v1/etl/_object/an-etl/secret. Nothing needs to listen
    there: other targets and stages are played at free ports of that host.
    """
    from tvetl import conformance as kit

    unknown = set(case or ()) - {each.name for each in kit.CASES}
    if unknown:
        raise UsageError(f"no such case: {', '.join(sorted(unknown))}", hint="--list prints their names.")
    cases = [each for each in kit.CASES if (not case or each.name in case) and (not must or each.severity == "must")]
    if show:
        _print_cases(cases, as_json)
        return
    if not url:
        hint = "tvetl conformance http://127.0.0.1:8000"
        raise UsageError("name the server to check, or ask for the --list", hint=hint)
    subject = kit.Subject(
        url,
        root=root,
        seen_as=seen_as,
        target_url=target_url,
        sample=folders.read_input(str(sample)) if sample else None,
        args=args or kit.ARGS,
        ready=ready,
        seconds=timeout,
    )
    _check(subject, cases, as_json)


def _check(subject: Subject, cases: Sequence[Case], as_json: bool) -> None:
    from tvetl import conformance as kit

    with progress("cases", len(cases)) as advance:
        report = kit.check(subject, cases, advance)
    if as_json:
        print_json(asdict(report))
    else:
        print_conformance(report)
    if report.count("failed"):
        raise typer.Exit(TvetlError.exit_code)


def _print_cases(cases: Sequence[Case], as_json: bool) -> None:
    titles = ("case", "severity", "promise")
    rows = [(case.name, case.severity, case.promise) for case in cases]
    if as_json:
        print_json([dict(zip(("name", *titles[1:]), row, strict=True)) for row in rows])
    else:
        print_table(titles, rows)


@app.command()
def local(
    root: Annotated[Path, typer.Option(help="A folder for buckets; made if missing.")] = Path("tvetl-local"),
    port: Annotated[int, typer.Option(help="Where to listen; 0 takes a free one.")] = 8080,
    targets: Annotated[int, typer.Option(help="How many targets, with a server each.", min=1, max=16)] = 1,
    allow: Annotated[list[str] | None, typer.Option(help="Run IMAGE=COMMAND, for images not ours.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Speak https, with an authority made for it.")] = False,
    token: Annotated[
        str, typer.Option(metavar="END", help="Ask for a token, which ends after 30m, 12h and so on; 0s: never.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Stand in for a cluster, on this machine and without Kubernetes, until Ctrl-C."""
    from tvetl.local import serve
    from tvetl.notation import seconds

    end = seconds(token) if token else None
    if token and end is None:
        raise UsageError(f"--token {token!r} is no duration", hint="It looks like 30m or 12h; 0s has no end.")
    allowed = {image: shlex.split(command) for image, command in (_pair(item, "--allow") for item in allow or ())}

    def log(line: str) -> None:
        print_json({"said": line}) if as_json else print_line(line)
        sys.stdout.flush()  # into a file, too, as soon as it holds

    serve(root, port=port, targets=targets, allow=allowed, log=log, tls=tls, token=end)


def _cluster(endpoint: str, etl: str = "", pipeline: str = "") -> Cluster:
    from tvetl.cluster import Cluster

    if pipeline and not etl:
        raise UsageError("--pipeline is that of an ETL", hint="Name it with --etl.")
    return Cluster(endpoint, pipelines={etl: _pipeline(pipeline)}) if pipeline else Cluster(endpoint)


def _pipeline(path: str) -> Pipeline:
    from tvetl.spec import parse

    return parse(folders.read_text(path))


def _pair(item: str, option: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not key or not equals:
        raise UsageError(f"{option} {item!r}: expected NAME=VALUE")
    return key, value


def _object(path: str) -> tuple[str, str]:
    from tvetl.notation import bucket, object_of

    where, name = object_of(path)
    if not name:
        raise UsageError(f"{path!r} does not name an object", hint="It looks like images/photo_0.jpg.")
    bucket(where)
    return where, name


def main() -> None:
    """The console script ``tvetl``. Usage errors (2) and Ctrl-C (130) are typer's own business."""
    app(prog_name="tvetl")
