"""Configs: YAML and dotted overrides in, dataclasses and the arguments of any callable out.

The signature is the schema: a setting has its name, type and default where it is declared and nowhere else.

The YAML is that of version 1.2's core schema as far as people notice: ``1e-3`` is a number, and ``no``, ``on``, ``2010-08-26``,
``1:30`` and ``007`` are text. (Version 1.1, PyYAML's own, reads text, two booleans, a date, 90 and 7.)
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, Union

import yaml

from stpredict.errors import UserError, nearest
from stpredict.files import find_yaml

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?$|[-+]?[0-9]+[eE][-+]?[0-9]+$|[-+]?\.inf$|\.nan$")


class _Loader(yaml.SafeLoader):
    """Reads plain data; a key that stands twice in one section, or is not text, is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or key in seen:
                problem = f"the key '{key}' stands twice" if key in seen else f"the key {key!r} is not text"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}  # none of version 1.1
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])


class _Dumper(yaml.SafeDumper):
    """Writes plain data; quotes every text that either version of YAML would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Without double quotes, PyYAML folds some line breaks (U+0085) into blanks.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


def _represent_list(dumper: yaml.SafeDumper, values: Sequence[Any]) -> yaml.Node:
    flat = not any(isinstance(value, (list, tuple, Mapping)) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flat)


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(tuple, _represent_list)
_Dumper.add_multi_representer(PurePath, lambda dumper, path: dumper.represent_str(str(path)))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty file holds an empty one.

    Raises:
        UserError: the file is no YAML, or holds something else; the sentence names the file and, where known, the line.
    """
    try:
        content = yaml.load(path.read_bytes(), Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}{_line(error)} is no YAML: {_problem(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} wants keys with values, such as 'seed: 0', not {_show(content)}")
    return content


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}," if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)


def dump_config(mapping: Mapping[str, Any]) -> str:
    """Return YAML text that reads back equal (tuples as lists, paths as text)."""
    return yaml.dump(dict(mapping), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def read_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a config, put the configs that its ``base:`` names under it, and the overrides over it.

    Args:
        name_or_path: a YAML file, or the name of a shipped config.
        overrides: ``--dotted.key VALUE`` or ``--dotted.key=VALUE`` as on the command line; the last of several wins.

    Raises:
        UserError: a file is missing, is no YAML, or is its own base; an override has no value or is no override.
    """
    config = _read_with_bases(find_yaml("configs", name_or_path), above=())
    for key, text in _pairs(overrides):
        _set(config, key, _value(key, text))
    return config


def _read_with_bases(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in above:
        raise UserError(f"{path} is its own base, by way of {' and '.join(str(other) for other in above if other != path) or 'itself'}")
    config = read_yaml(path)
    named = config.pop("base", None) or []
    merged: dict[str, Any] = {}
    for name in [named] if isinstance(named, str) else convert(list[str], named, f"{path}: base"):
        beside = path.parent / name
        try:
            base = beside if beside.suffix in (".yaml", ".yml") and beside.is_file() else find_yaml("configs", name)
        except UserError as error:
            raise UserError(f"{path}: base: {error}") from None
        merged = merge_configs(merged, _read_with_bases(base, (*above, path)))
    return merge_configs(merged, config)


def merge_configs(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return one config put over another: sections are joined key by key, anything else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge_configs(merged[key], value) if both else value
    return merged


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    words = iter(overrides)
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not all(part.isidentifier() for part in key.split(".")):
            raise UserError(f"'{word}' is no override: write --section.key VALUE, and quote a value that holds spaces")
        if not equals:
            text = next(words, "--")
        if not text or (not equals and text.startswith("--")):
            raise UserError(f"--{key} has no value: write --{key} VALUE")
        yield key, text


def _value(key: str, text: str) -> Any:
    """Read a value as YAML does; but a text that is neither a list, a section nor quoted is taken as it stands."""
    if text[0] in "[{\"'":
        try:
            return yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise UserError(f"The value of --{key} is no YAML: {text} ({_problem(error)}); quote a value that holds spaces") from None
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return loader.construct_object(yaml.ScalarNode(tag, text))


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    place = config
    for depth, section in enumerate(sections, start=1):
        if place.get(section) is None:
            place[section] = {}
        place = place[section]
        if not isinstance(place, dict):
            raise UserError(f"--{key} cannot be set: '{'.'.join(sections[:depth])}' is {_show(place)}, not a section")
    place[last] = value


def build(
    target: Callable[..., Any], mapping: Mapping[str, Any] | None, where: str = "", read_elsewhere: Sequence[str] = (), **given: Any
) -> Any:
    """Call ``target``, a dataclass or any callable, with the settings of ``mapping``, checked against its signature.

    Args:
        target: what to call; its annotations say what each setting wants.
        mapping: the settings by name; None, as YAML reads an empty section, is none of them. A target with ``**settings`` takes
            any name, unchecked.
        where: the section that they come from, for sentences such as "There is no key 'trainer.max_step'".
        read_elsewhere: keys of the same section that others have taken out of ``mapping``; who misspelt one is told of it.
        given: arguments that the program itself passes; they are no settings and may not be named in ``mapping``.

    Raises:
        UserError: a key is unknown or missing, or a value is not what its annotation says.
    """
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where} wants a section of keys with values, not {_show(mapping)}")
    known, open_ended = settings_of(target)
    known = {name: default for name, default in known.items() if name not in given}
    annotations = _annotations(target)
    settings = {}
    for key, value in mapping.items():
        if key not in known and (not open_ended or key in given):
            raise UserError(f"There is no key '{_join(where, key)}'{nearest(key, [*known, *read_elsewhere])}")
        settings[key] = convert(annotations.get(key, Any), value, _join(where, key)) if key in known else value
    for key, default in known.items():
        if key not in settings and default is inspect.Parameter.empty:
            raise UserError(f"The key '{_join(where, key)}' is missing; it wants {_wish(annotations.get(key, Any))}")
    return target(**settings, **given)


def settings_of(target: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Return the settings that a callable's signature names, each with its default, and whether it takes any other name as well.

    A setting without a default has ``inspect.Parameter.empty``. ``**settings: Unpack[Table]`` stands for the keys of
    a TypedDict, whose defaults are those of the base class that takes them.
    """
    parameters = inspect.signature(target).parameters
    shared = _shared_settings(_annotations(target))
    known = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    if shared is not None:
        bases = [base.__init__ for base in getattr(target, "__mro__", ())]
        return known | {name: _default(bases, name) for name in (*shared.__required_keys__, *shared.__optional_keys__)}, False
    kinds = {parameter.kind for parameter in parameters.values()}
    # (*args, **kwargs) says nothing about settings: it is what a class without an __init__ of its own inherits from nn.Module.
    return known, inspect.Parameter.VAR_KEYWORD in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds


def _default(functions: Iterable[Callable[..., Any]], name: str) -> Any:
    """Return the default that the first of some functions with such a parameter gives it."""
    found = (inspect.signature(function).parameters.get(name) for function in functions)
    return next((parameter.default for parameter in found if parameter is not None), inspect.Parameter.empty)


def _shared_settings(hints: Mapping[str, Any]) -> Any:
    """Return the TypedDict of ``**settings: Unpack[...]``, or None."""
    tables = [typing.get_args(hint)[0] for hint in hints.values() if typing.get_origin(hint) is typing.Unpack]
    return tables[0] if tables else None


def _annotations(target: Callable[..., Any]) -> dict[str, Any]:
    plain_class = isinstance(target, type) and not dataclasses.is_dataclass(target)
    try:
        hints = typing.get_type_hints(target.__init__ if plain_class else target)
        shared = _shared_settings(hints)
        return hints if shared is None else hints | typing.get_type_hints(shared)
    except NameError as error:
        raise UserError(f"The types of the settings of {target} cannot be read: {error}; import them outside 'if TYPE_CHECKING'") from None


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def convert(annotation: Any, value: Any, where: str) -> Any:
    """Return ``value`` as the annotated type wants it.

    An integral float serves as an int (1e5), an int as a float or as text, text as a path, a list as a tuple, a section as a dataclass.

    Raises:
        UserError: the value is something else; the sentence says which key, what it wants and what it got.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or annotation is object:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(annotation, arguments, value, where)
    if origin is Literal:
        return _convert_literal(annotation, arguments, value, where)
    if dataclasses.is_dataclass(annotation) and (value is None or isinstance(value, Mapping)):
        return build(typing.cast(type, annotation), value or {}, where)
    if (origin or annotation) in (dict, Mapping) and (value is None or isinstance(value, Mapping)):
        inner = arguments[1] if arguments else Any
        return {str(key): convert(inner, item, _join(where, str(key))) for key, item in (value or {}).items()}
    if (origin or annotation) in (tuple, list, Sequence) and isinstance(value, (list, tuple)):
        return _convert_list(annotation, origin or annotation, arguments, value, where)
    if annotation is float and type(value) is int:
        return float(value)
    if annotation is int and type(value) is float and value.is_integer():
        return int(value)
    if annotation in (str, Path) and type(value) is int:
        return annotation(str(value))
    if annotation is Path and isinstance(value, str):
        return Path(value)
    kind = type(None) if annotation is None else annotation
    if isinstance(kind, type) and isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    raise UserError(f"{where} wants {_wish(annotation)}, not {_show(value)}")


def _convert_union(annotation: Any, members: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    sections = [member for member in members if dataclasses.is_dataclass(member)]
    if len(members) == 1 or (len(sections) == 1 and isinstance(value, Mapping)):
        return convert([*sections, *members][0], value, where)
    # An exact type comes first, so that 3 stays an int where both an int and a text would do.
    for member in sorted(members, key=lambda member: member is not type(value)):
        try:
            return convert(member, value, where)
        except UserError:
            continue
    raise UserError(f"{where} wants {_wish(annotation)}, not {_show(value)}")


def _convert_literal(annotation: Any, choices: tuple[Any, ...], value: Any, where: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
    if isinstance(value, str):
        raise UserError(f"{where} cannot be '{value}'{nearest(value, [str(choice) for choice in choices])}")
    raise UserError(f"{where} wants {_wish(annotation)}, not {_show(value)}")


def _convert_list(annotation: Any, kind: Any, arguments: tuple[Any, ...], values: Sequence[Any], where: str) -> Any:
    fixed = kind is tuple and arguments and arguments[-1] is not Ellipsis
    if fixed and len(values) != len(arguments):
        raise UserError(f"{where} wants {_wish(annotation)}, not {_show(values)}")
    wanted = arguments if fixed else [arguments[0] if arguments else Any] * len(values)
    items = [convert(item, value, f"{where}[{index}]") for index, (item, value) in enumerate(zip(wanted, values, strict=True))]
    return items if kind is list else tuple(items)


_WISHES = {
    int: ("a whole number", "whole numbers", "[64, 64]"),
    float: ("a number", "numbers", "[0.5, 1.0]"),
    bool: ("true or false", "values true or false", "[true, false]"),
    str: ("text", "texts", "[a, b]"),
    Path: ("a path", "paths", "[a, b]"),
    Any: ("a value", "values", "[1, 2]"),
    type(None): ("null", "nulls", "[null, null]"),
}


def _wish(annotation: Any) -> str:
    """Say in words what a setting wants."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _WISHES:
        return _WISHES[annotation][0]
    if origin in (Union, types.UnionType):
        return " or ".join(_wish(member) for member in arguments)
    if origin is Literal:
        return " or ".join(f"'{choice}'" if isinstance(choice, str) else str(choice) for choice in arguments)
    if (origin or annotation) in (tuple, list, Sequence):
        count = f"{len(arguments)} " if origin is tuple and arguments[-1] is not Ellipsis else ""
        _, several, example = _WISHES.get(arguments[0] if arguments else Any, ("", "values", ""))
        return f"a list of {count}{several}" + (f", such as {example}" if example and not count else "")
    if dataclasses.is_dataclass(annotation):
        return f"a section with the keys {', '.join(field.name for field in dataclasses.fields(annotation) if field.init)}"
    if (origin or annotation) in (dict, Mapping):
        return "a section of keys with values"
    return f"a {getattr(annotation, '__name__', annotation)}, which no config can give"


def _show(value: Any) -> str:
    """Show what was given, shortly and as YAML would write it."""
    if isinstance(value, Mapping):
        return f"a section with the keys {', '.join(map(str, value))}" if value else "an empty section"
    text = f"'{value}'" if isinstance(value, str) else yaml.dump(value, Dumper=_Dumper, default_flow_style=True).removesuffix("...\n")
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
