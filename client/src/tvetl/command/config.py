"""Where an option's value comes from: a flag, the environment, a file, or its default, in this order.

``--image`` of ``tvetl register`` is TVETL_REGISTER_IMAGE in the environment, and ``register: {image: ...}`` in the
``tvetl.yaml`` of the working folder or of the user's own folder. An option outside of a command's section
(``endpoint: ...``) is for every command that has it. ``--show-config`` prints all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import typer
import yaml
from typer.core import TyperCommand, TyperGroup, TyperOption

from tvetl.command.terminal import note, print_error, print_json, print_table, speak
from tvetl.errors import TvetlError, UsageError
from tvetl.pod import has_secret

FILE = "tvetl.yaml"
_FLAG = "--show-config"
#: What typer raises for a missing argument or an unknown option, by whichever name it has the class.
_CommandLineError: type[typer.BadParameter] = typer.BadParameter.__bases__[0]
#: The exit status of a command that Ctrl-C ended.
_INTERRUPTED = 130
#: The key of a context's ``meta``, which all commands share: (command, parameter) -> the file that set it.
_ORIGINS = "tvetl.config"

#: Command -> parameter -> value.
Values = dict[str, dict[str, object]]
#: Command, option, value and origin.
Row = tuple[str, str, str, str]
_Function = TypeVar("_Function", bound=Callable[..., object])


class Command(TyperCommand):
    """A command with ``--show-config``, whose errors of ours become a message and an exit status."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.params.append(_show_config_option())
        for param in self.params:
            # Every option has a variable of its own; to name them all would double the length of --help.
            if not getattr(param, "envvar", None):
                param.show_envvar = False  # type: ignore[attr-defined]

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if _FLAG not in args:
            as_json = "--json" in args  # they are used up
            try:
                return super().parse_args(ctx, args)
            except _CommandLineError as error:
                if not as_json:
                    raise
                print_error(UsageError(error.format_message(), hint=f"{ctx.command_path} --help"), as_json=True)
                raise typer.Exit(UsageError.exit_code) from error
        ctx.resilient_parsing = True  # a missing argument is no error now
        super().parse_args(ctx, [arg for arg in args if arg != _FLAG])
        _print(_rows(ctx), as_json=bool(ctx.params.get("as_json")))
        raise typer.Exit

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        as_json = bool(ctx.params.get("as_json"))
        speak(as_json=as_json)
        try:
            return super().invoke(ctx)
        except TvetlError as error:
            print_error(error, as_json=as_json)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            if not as_json:
                raise
            note("interrupted")
            raise typer.Exit(_INTERRUPTED) from None


class App(typer.Typer):
    """A typer application whose commands are of the class :class:`Command`."""

    def command(self, name: str | None = None, **options: object) -> Callable[[_Function], _Function]:
        return super().command(name, cls=Command, **options)  # type: ignore[arg-type]


def load(ctx: typer.Context) -> None:
    """Give every command its options from the files. Raises UsageError for a file with other keys."""
    commands = _commands(ctx)
    merged: Values = {name: {} for name in commands}
    origins = ctx.meta[_ORIGINS] = {}
    for path in (Path(typer.get_app_dir("tvetl")) / FILE, Path(FILE)):  # the working folder's wins
        for command, options in _read(path, commands).items():
            merged[command].update(options)
            origins.update({(command, option): path for option in options})
    ctx.default_map = {**merged}


def print_all(ctx: typer.Context) -> None:
    """Print every option of every command: its value and origin."""
    rows: list[Row] = []
    for name, command in _commands(ctx).items():
        of_command = typer.Context(command, info_name=name, parent=ctx, resilient_parsing=True)
        command.parse_args(of_command, [])
        rows += _rows(of_command)
    _print(rows, as_json=False)


def _show_config_option() -> TyperOption:
    """The option as typer makes it from a function: what its class takes differs from version to version."""
    probe = typer.Typer(add_completion=False)

    @probe.command()
    def command(
        show_config: Annotated[bool, typer.Option(_FLAG, help="Only print every option's value and origin.")] = False,
    ) -> None: ...

    (option,) = typer.main.get_command(probe).params
    assert isinstance(option, TyperOption)
    option.expose_value = False
    return option


def _commands(ctx: typer.Context) -> Mapping[str, TyperCommand]:
    group = ctx.command
    assert isinstance(group, TyperGroup)
    return {name: command for name, command in group.commands.items() if isinstance(command, TyperCommand)}


def _options(command: TyperCommand) -> dict[str, str]:
    """Its options as a file names them (``on-interrupt``), with the parameters' names (``on_interrupt``)."""
    long = ((param, next((flag for flag in param.opts if flag.startswith("--")), _FLAG)) for param in command.params)
    return {flag.removeprefix("--"): str(param.name) for param, flag in long if flag != _FLAG}


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
    options = {name: _options(command) for name, command in commands.items()}
    found: Values = {name: {} for name in commands}
    for key in data.keys() - commands.keys():
        having = [name for name in commands if key in options[name]]
        if not having:
            raise UsageError(f"{path}: no command has the option {key!r}")
        for name in having:
            found[name][options[name][key]] = data[key]
    for name in data.keys() & commands.keys():
        section = data[name] or {}
        if not isinstance(section, dict):
            raise UsageError(f"{path}: expected options of {name}, got {section!r}")
        for key, value in section.items():
            if key not in options[name]:
                raise UsageError(f"{path}: {name} has no option {key!r}")
            found[name][options[name][key]] = value
    return found


def _rows(ctx: typer.Context) -> list[Row]:
    """The options of a parsed command."""
    name = str(ctx.info_name)
    rows = []
    for option, parameter in _options(ctx.command).items():  # type: ignore[arg-type]
        value = ctx.params.get(parameter)
        if option == "env":  # what register refuses is not shown either
            pairs = [each.partition("=") for each in value or ()]
            value = [f"{name}=***" if has_secret(name, text) else f"{name}{_}{text}" for name, _, text in pairs]
        shown = "" if value is None else re.sub(r"//[^/\s]*@", "//***@", str(value))  # without a password
        rows.append((name, f"--{option}", shown, _origin(ctx, name, parameter)))
    return rows


def _origin(ctx: typer.Context, command: str, parameter: str) -> str:
    source = ctx.get_parameter_source(parameter)
    match source.name if source else "":
        case "COMMANDLINE":
            return "flag"
        case "ENVIRONMENT":
            param = next(param for param in ctx.command.params if param.name == parameter)
            return f"environment {getattr(param, 'envvar', None) or f'{ctx.auto_envvar_prefix}_{parameter.upper()}'}"
        case "DEFAULT_MAP":
            return f"file {ctx.meta[_ORIGINS][command, parameter]}"
    return "default"


def _print(rows: Iterable[Row], *, as_json: bool) -> None:
    titles = ("command", "option", "value", "from")
    if as_json:
        print_json([dict(zip(titles, row, strict=True)) for row in rows])
    else:
        print_table(titles, [*rows])
