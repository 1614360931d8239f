"""Text to plain data, strictly: JSON and YAML with no duplicate keys, aliases, tags, NaN or endless nesting."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Mapping

import yaml

from tvetl.spec import limits
from tvetl.spec.values import show


class BadText(Exception):
    """Text that is no plain data; the message is for the user."""


def load(text: str, most: int) -> object:
    """The data in JSON or YAML ``text`` of at most ``most`` bytes; raises BadText."""
    _check_length(text, most)
    if not text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return _load_yaml(text)
    try:
        return load_json(text, most)
    except _Forbidden:
        raise
    except BadText as json_problem:
        # Braces may also be YAML's. Of two failures the JSON one is the more likely to help.
        try:
            return _load_yaml(text)
        except _Forbidden:
            raise
        except BadText:
            raise json_problem from None


def load_json(text: str, most: int) -> object:
    """The data in JSON ``text`` of at most ``most`` bytes; raises BadText."""
    _check_length(text, most)
    _check_nesting_of_json(text)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise BadText(f"not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except ValueError as error:  # a number of thousands of digits
        raise _Forbidden("a number has too many digits") from error


class _Forbidden(BadText):
    """Valid text with something in it that we do not allow."""


def _check_length(text: str, most: int) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > most:
        raise _Forbidden(f"expected at most {most} bytes of text, got {size}")


def _too_deep() -> BadText:
    return _Forbidden(f"expected at most {limits.NESTING} levels of nesting")


def _duplicate(key: object) -> BadText:
    return _Forbidden(f"the key {show(key)} comes twice in one object")


_STRINGS_AND_BRACKETS = re.compile(r'(?s)"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[{\]}]')


def _check_nesting_of_json(text: str) -> None:
    """Before the parser, which recurses, sees it."""
    if text.count("[") + text.count("{") <= limits.NESTING:
        return
    depth = 0
    # A string without an end goes on to the end of the text: so each character is looked at once.
    for match in _STRINGS_AND_BRACKETS.finditer(text):
        bracket = match[0]
        depth += 1 if bracket in "[{" else -1 if bracket in "]}" else 0
        if depth > limits.NESTING:
            raise _too_deep()


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    data: dict[str, object] = {}
    for key, value in pairs:
        if key in data:
            raise _duplicate(key)
        data[key] = value
    return data


def _no_constant(name: str) -> object:
    raise _Forbidden(f"{name} is not allowed: numbers must be finite")


class _Loader(yaml.SafeLoader):
    """YAML as plain data: JSON's own scalars (so ``no`` and ``1:30`` stay text), no aliases, no tags."""

    # Else PyYAML copies those of YAML 1.1, where "no" is false.
    yaml_implicit_resolvers = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Forbidden("YAML anchors and aliases are not allowed")
        if getattr(event, "tag", None) is not None:
            raise _Forbidden("YAML tags are not allowed")
        self.depth += 1
        if self.depth > limits.NESTING:
            raise _too_deep()
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        data: dict[Hashable, object] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _Forbidden(f"expected text as a key, got {show(key)}")
            if key in data:
                raise _duplicate(key)
            if value_node.value == "" and value_node.start_mark.index == value_node.end_mark.index:
                raise _Forbidden(f"{show(key)} has no value (# begins a comment in YAML; write null for none)")
            data[key] = self.construct_object(value_node, deep=True)
        return data


def _resolve(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), list(first))


def _construct_number(loader: _Loader, node: yaml.ScalarNode) -> object:
    return load_json(str(node.value), limits.PIPELINE_BYTES)


_resolve("null", "null|~|", "n~")
_Loader.yaml_implicit_resolvers.setdefault("", []).append(("tag:yaml.org,2002:null", re.compile(r"\Z")))
_resolve("bool", "true|false", "tf")
_resolve("int", r"-?(?:0|[1-9][0-9]*)", "-0123456789")
_resolve("float", r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", "-0123456789")
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_number)


def _load_yaml(text: str) -> object:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise BadText(f"not valid YAML: {error.problem}{place}") from error
    except yaml.YAMLError as error:
        raise BadText("not valid YAML: a character that YAML does not allow") from error


def check_data(data: object) -> None:
    """Raise BadText where data that did not come as text nests too deep or never ends."""
    for count, depth in enumerate(_depths(data)):
        if depth > limits.NESTING:
            raise _too_deep()
        if count > limits.NODES:
            raise _Forbidden(f"expected at most {limits.NODES} values")


def _depths(data: object) -> Iterator[int]:
    waiting: list[tuple[object, int]] = [(data, 1)]
    while waiting:
        value, depth = waiting.pop()
        yield depth
        if isinstance(value, Mapping):
            waiting.extend((each, depth + 1) for each in value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend((each, depth + 1) for each in value)
