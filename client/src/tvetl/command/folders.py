"""``tvetl put`` and ``tvetl get BUCKET FOLDER``: files of this machine into a bucket, and objects into files."""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from string import whitespace
from typing import TYPE_CHECKING, Annotated

import typer

from tvetl import notation
from tvetl.command.options import LOCAL, AsJson, Endpoint
from tvetl.command.terminal import duration, err, plain, print_json, print_line, progress, size_of
from tvetl.errors import ObjectFailed, UsageError

if TYPE_CHECKING:
    from tvetl.cluster.folders import CopyProgress, CopyReport, FileError, Found
    from tvetl.jobs import JobProgress

#: Files that are named in words; --json names all.
_SHOWN = 10
#: Encoding and error handler of the names of files, which may be any bytes.
_FILE_NAMES = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there with another content.")]
Content = Annotated[
    bool, typer.Option("--content", help="Compare byte for byte where a checksum cannot tell, not by size.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Copy nothing; tell what would be.")]
Threads = Annotated[int, typer.Option(help="Files at once.", min=1, max=64)]


def put(
    sources: Annotated[
        list[str], typer.Argument(metavar="FOLDER...", help="Folders, files or patterns.", show_default=False)
    ],
    bucket: Annotated[str, typer.Argument(help="The bucket to write; made if missing.", show_default=False)],
    endpoint: Endpoint = LOCAL,
    prefix: Annotated[str, typer.Option(help="Put before the names of the objects: 'train/'.")] = "",
    list_file: Annotated[
        str, typer.Option("--list", help="Only the files of the folder that this file names, one a line; - is here.")
    ] = "",
    hidden: Annotated[bool, typer.Option("--hidden", help="Also files and folders that begin with a dot.")] = False,
    any_name: Annotated[
        bool, typer.Option("--any-name", help="Also names that AIStore cannot send to an ETL.")
    ] = False,
    overwrite: Overwrite = False,
    content: Content = False,
    dry_run: DryRun = False,
    threads: Threads = 8,
    as_json: AsJson = False,
) -> None:
    """Store a folder's files in a bucket: those that are not there yet with the same content."""
    from tvetl.cluster import Cluster
    from tvetl.cluster.folders import find_files, put_files

    _check_bucket(bucket, sources)
    names = lines_of(list_file, "file", *_FILE_NAMES) if list_file else None
    found = find_files(sources, prefix=prefix, names=names, hidden=hidden, any_name=any_name)
    _print_refused(found, as_json=as_json)
    cluster = Cluster(endpoint, connections=threads)
    with progress("files", len(found.files)) as advance:
        report = put_files(
            cluster, found, bucket, overwrite=overwrite, content=content, dry_run=dry_run, threads=threads,
            on_progress=lambda now: advance.job(_progress(now)),
        )  # fmt: skip
    _print_report(report, dry_run=dry_run, as_json=as_json)


def get_folder(
    endpoint: str, bucket: str, folder: Path, prefix: str, threads: int, *,
    overwrite: bool, content: bool, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write a bucket's objects into a folder."""
    from tvetl.cluster import Cluster
    from tvetl.cluster.folders import find_objects, get_files

    _check_bucket(bucket, ())
    cluster = Cluster(endpoint, connections=threads)
    found = find_objects(cluster, bucket, folder, prefix=prefix)
    _print_refused(found, as_json=as_json)
    with progress("objects", len(found.files)) as advance:
        report = get_files(
            cluster, found, bucket, overwrite=overwrite, content=content, dry_run=dry_run, threads=threads,
            on_progress=lambda now: advance.job(_progress(now)),
        )  # fmt: skip
    _print_report(report, dry_run=dry_run, as_json=as_json)


def _check_bucket(bucket: str, sources: Sequence[str]) -> None:
    try:
        named = notation.bucket(bucket)
        good = re.fullmatch(r"[\w.-]+", named.name)
    except UsageError:
        good = None
    if not good:
        hint = "The bucket comes behind all files, without a folder: `tvetl put photos my-bucket --prefix train/`."
        if not sources:
            hint = "`tvetl get BUCKET FOLDER --prefix train/` chooses by prefix; `-o FILE` writes one object."
        raise UsageError(f"{bucket!r} is not the name of a bucket", hint=hint)
    if sources and "://" not in bucket and Path(bucket).is_file():
        hint = f"`tvetl put FOLDER BUCKET`; or ais://{bucket}, if the bucket is called so."
        raise UsageError(f"{bucket!r} is a file here: name the bucket behind the files", hint=hint)


def read_input(path: str) -> bytes:
    """The bytes of a file, or of standard input for ``-``. Raises UsageError."""
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path!r} cannot be read: {error.strerror}") from error


def read_text(path: str, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The same as text, without a byte order mark."""
    try:
        return read_input(path).removeprefix(codecs.BOM_UTF8).decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path!r} cannot be read: {error}") from error


def lines_of(path: str, noun: str, encoding: str = "utf-8", errors: str = "strict") -> list[str]:
    """The lines of a list of names, without empty ones. Raises UsageError where there are none."""
    # Not Unicode's blanks, of which a name may consist.
    names = [line for line in re.split(r"\r?\n", read_text(path, encoding, errors)) if line.strip(whitespace)]
    if not names:
        raise UsageError(f"{path!r} names no {noun}")
    return names


def _progress(now: CopyProgress) -> JobProgress:
    from tvetl.jobs import JobProgress

    return JobProgress(now.done, now.total, now.seconds, now.bytes, stage="files")


def _print_refused(found: Found, *, as_json: bool) -> None:
    """Before anything is copied."""
    if found.refused and not as_json:
        err.print(f"{_count(len(found.refused))} cannot be copied:")
        _print_errors(found.refused)


def _print_report(report: CopyReport, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(report), "dry_run": dry_run})
    else:
        took = "would be copied" if dry_run else f"copied in {duration(report.seconds)}"
        print_line(f"{report.copied} of {_count(report.wanted)} {took} ({size_of(report.bytes)})")
        if report.kept:
            print_line(f"{report.kept} kept: there already, with the same content")
        if report.by_size:
            print_line(
                f"{report.by_size} of these are compared by size alone, as their checksum cannot be computed here: "
                "--content compares them byte for byte"
            )
        if report.hidden:
            print_line(f"{report.hidden} hidden files and folders are left out: --hidden takes them, too")
        if report.failed:
            err.print(f"{len(report.failed)} failed:")
            _print_errors(report.failed)
        if report.refused:
            err.print(f"{len(report.refused)} could not be copied, as told above")
    if not report.ok:
        raise typer.Exit(ObjectFailed.exit_code)


def _print_errors(errors: Sequence[FileError]) -> None:
    for error in errors[:_SHOWN]:
        err.print(f"  {plain(f'{error.file or error.object}: {error.message} ({error.code})')}", markup=False)
    if len(errors) > _SHOWN:
        err.print(f"  and {len(errors) - _SHOWN} more, which --json names")


def _count(files: int) -> str:
    return f"{files} file{'' if files == 1 else 's'}"
