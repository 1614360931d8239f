"""Where an option's value comes from: a flag, the environment, a file, or its default, in this order.

Every option of every command can be set in all four ways: ``--image`` of ``tvetl register`` is TVETL_REGISTER_IMAGE in
the environment, and ``register: {image: ...}`` in ``tvetl.yaml`` of the working folder or of the user's own folder.
An option outside of a command's section (``endpoint: ...``) is meant for every command that has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

import typer
import yaml
from typer.core import TyperCommand, TyperGroup, TyperOption

from tvetl.command.terminal import complain, say_json, say_table
from tvetl.errors import TvetlError, UsageError

FILE = "tvetl.yaml"
_FLAG = "--show-config"
_HELP = "Only tell every option's value, and where it comes from."

#: What a file says: command -> parameter -> value.
Values = dict[str, dict[str, object]]
_Function = TypeVar("_Function", bound=Callable[..., object])


def files() -> list[Path]:
    """Where settings may lie, the first winning: the working folder, then the user's own (``~/.config/tvetl``)."""
    return [Path(FILE), Path(typer.get_app_dir("tvetl")) / FILE]


class Command(TyperCommand):
    """A command that can say where its options' values come from, and that turns our errors into words and a status."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.params.extend(_show_config_option())
        for param in self.params:
            # Every option has a variable of its own; to name them all would double the length of --help.
            if not getattr(param, "envvar", None):
                param.show_envvar = False  # type: ignore[attr-defined]

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if _FLAG not in args:
            return super().parse_args(ctx, args)
        ctx.resilient_parsing = True  # an argument that is missing is no error now
        super().parse_args(ctx, [arg for arg in args if arg != _FLAG])
        _tell({str(ctx.info_name): self}, {str(ctx.info_name): ctx}, as_json=bool(ctx.params.get("as_json")))
        raise typer.Exit

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except TvetlError as error:
            complain(error, as_json=bool(ctx.params.get("as_json")))
            raise typer.Exit(error.exit_code) from error


class App(typer.Typer):
    """typer's, with our kind of command."""

    def command(self, name: str | None = None, **options: object) -> Callable[[_Function], _Function]:
        return super().command(name, cls=Command, **options)  # type: ignore[arg-type]


def load(ctx: typer.Context) -> None:
    """Give every command its options from the files. Raises UsageError for a file that cannot be meant so."""
    commands = _commands(ctx)
    merged: Values = {}
    _Origin.of.clear()
    for path in reversed(files()):
        for command, options in _read(path, commands).items():
            merged.setdefault(command, {}).update(options)
            _Origin.of.update({(command, option): path for option in options})
    ctx.default_map = {command: dict(options) for command, options in merged.items()}


def tell_all(ctx: typer.Context, *, as_json: bool = False) -> None:
    """Every option of every command: its value, and where it comes from."""
    commands = _commands(ctx)
    contexts = {}
    for name, command in commands.items():
        contexts[name] = typer.Context(command, info_name=name, parent=ctx, resilient_parsing=True)
        TyperCommand.parse_args(command, contexts[name], [])
    _tell(commands, contexts, as_json=as_json)


class _Origin:
    """Which file a value came from, by command and parameter; filled by :func:`load`, for :func:`_source`."""

    of: ClassVar[dict[tuple[str, str], Path]] = {}


def _commands(ctx: typer.Context) -> Mapping[str, TyperCommand]:
    group = ctx.command
    assert isinstance(group, TyperGroup)
    return {name: command for name, command in group.commands.items() if isinstance(command, TyperCommand)}


def _options(command: TyperCommand) -> dict[str, str]:
    """Its options as a file names them (``on-interrupt``), with the parameters' names (``on_interrupt``)."""
    found = {}
    for param in command.params:
        flags = [flag for flag in param.opts if flag.startswith("--")]
        if flags and _FLAG not in flags:
            found[flags[0].removeprefix("--")] = str(param.name)
    return found


def _read(path: Path, commands: Mapping[str, TyperCommand]) -> Values:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected options and commands, like `endpoint: http://127.0.0.1:8080`")
    found: Values = {name: {} for name in commands}
    everywhere = {str(key): value for key, value in data.items() if key not in commands}
    for key, value in everywhere.items():
        having = [name for name, command in commands.items() if key in _options(command)]
        if not having:
            raise UsageError(f"{path}: no command has the option {key!r}")
        for name in having:
            found[name][_options(commands[name])[key]] = value
    for name in data.keys() & commands.keys():
        for key, value in (data[name] or {}).items():
            if key not in _options(commands[name]):
                raise UsageError(f"{path}: {name} has no option {key!r}")
            found[name][_options(commands[name])[key]] = value
    return found


def _tell(commands: Mapping[str, TyperCommand], contexts: Mapping[str, typer.Context], *, as_json: bool) -> None:
    rows = []
    for name, command in commands.items():
        for option, parameter in _options(command).items():
            value = contexts[name].params.get(parameter)
            shown = "" if value is None else re.sub(r"//[^/\s]*@", "//***@", str(value))  # no password is shown
            rows.append((name, f"--{option}", shown, _source(contexts[name], name, parameter)))
    if as_json:
        say_json([dict(zip(("command", "option", "value", "from"), row, strict=True)) for row in rows])
    else:
        say_table(("command", "option", "value", "from"), rows)


def _source(ctx: typer.Context, command: str, parameter: str) -> str:
    source = ctx.get_parameter_source(parameter)
    match source.name if source else "":
        case "COMMANDLINE":
            return "flag"
        case "ENVIRONMENT":
            param = next(param for param in ctx.command.params if param.name == parameter)
            return f"environment {getattr(param, 'envvar', None) or f'{ctx.auto_envvar_prefix}_{parameter.upper()}'}"
        case "DEFAULT_MAP":
            return f"file {_Origin.of[command, parameter]}"
    return "default"


def _show_config_option() -> list[TyperOption]:
    """The option as typer makes it from a function, in a list."""
    probe = typer.Typer(add_completion=False)

    @probe.command()
    def command(show_config: Annotated[bool, typer.Option(_FLAG, help=_HELP)] = False) -> None: ...

    options = [option for option in typer.main.get_command(probe).params if isinstance(option, TyperOption)]
    for option in options:
        option.expose_value = False
    return options
