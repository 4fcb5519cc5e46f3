"""The reference of the command in README, made from the command: `python -m tests.reference`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App, Argument

from sp_messaging_async.cli import app

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- reference: made by python -m tests.reference -->\n", "<!-- end of reference -->"


def reference() -> str:
    """Every command with the arguments that are its own, and then the groups that several take."""
    commands = [
        (" ".join(words), command, _arguments(command))
        for words, command in _commands(app, ("sp-messaging",))
    ]
    shared: dict[str, dict[str, Argument]] = {}
    for _, _, arguments in commands:
        for each in arguments:
            if not _is_own(each):
                shared.setdefault(_group(each), {}).setdefault(each.name, each)
    lines: list[str] = []
    for words, command, arguments in commands:
        lines += _section(words, command, arguments, shared)
    for name, options in shared.items():
        lines += ["", f"**{name}**", "", *_table(list(options.values()))]
    return "\n".join([*lines, ""])


def _arguments(command: App) -> list[Argument]:
    arguments = command.assemble_argument_collection(parse_docstring=True)
    return [each for each in arguments if each.name != "*"]  # which is a group of them as a whole


def _is_own(argument: Argument) -> bool:
    return _group(argument) in ("Arguments", "Parameters")


def _commands(of: App, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], App]]:
    for name in of:
        if not name.startswith("-"):
            yield from _commands(of[name], (*words, name))
    if of.default_command is not None:
        yield words, of


def _section(
    words: str, command: App, arguments: list[Argument], shared: dict[str, dict[str, Argument]]
) -> Iterator[str]:
    own = [each for each in arguments if _is_own(each)]
    positional = [each.name.upper() for each in own if not each.name.startswith("-")]
    yield f"\n**`{' '.join((words, *positional))}`**: {_first_sentence(command.help)}"
    if own:
        yield ""
        yield from _table(own)
    taken: dict[str, set[str]] = {}
    for each in arguments:
        taken.setdefault(_group(each), set()).add(each.name)
    groups = [
        _whole_or_part(name, options, taken[name])
        for name, options in shared.items()
        if name in taken
    ]
    if groups:
        yield f"\nIt also takes the options of {', '.join(groups)}."


def _whole_or_part(name: str, options: dict[str, Argument], taken: set[str]) -> str:
    some = [f"`{option}`" for option in options if option in taken]
    missing = [f"`{option}`" for option in options if option not in taken]
    if not missing:
        return f"“{name}”"
    which = f"only {', '.join(some)}" if len(some) < len(missing) else f"not {', '.join(missing)}"
    return f"“{name}” ({which})"


def _group(argument: Argument) -> str:
    (group,) = argument.parameter.group
    return str(getattr(group, "name", group))


def _table(arguments: list[Argument]) -> Iterator[str]:
    yield "| | |"
    yield "|---|---|"
    for each in sorted(arguments, key=lambda argument: argument.name.startswith("-")):
        yield f"| `{each.name}` | {_plain(each.parameter.help or '')}{_choices(each)} |"


def _choices(argument: Argument) -> str:
    choices = argument.get_choices()
    return f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""


def _first_sentence(text: str) -> str:
    return _plain(text.strip().split("\n\n")[0])


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    """Bring README up to the command."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    README.write_text(before + BEGIN + reference() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
