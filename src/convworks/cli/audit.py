"""`convworks audit [GROUP...]`: the numbers that lectures and papers print, beside those of the networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.parse import command
from convworks.cli.text import count, folder
from convworks.errors import EXIT_OK, ConvworksError

if TYPE_CHECKING:
    from convworks.ledger import Audit

Group = Literal["alexnet", "vgg", "googlenet", "resnet", "mobilenet", "lectures"]
KINDS = (".md", ".csv", ".json")


@dataclass(frozen=True, kw_only=True)
class AuditFlags(OutputFlags):
    """What to audit."""

    groups: Annotated[tuple[Group, ...], Shown("GROUP", "googlenet", positional=True)] = ()
    """alexnet vgg googlenet resnet mobilenet lectures [all]"""
    write: Annotated[Path | None, Shown("FILE", "audit.md")] = None
    """write it into a new .md, .csv or .json file as well"""


def run(args: AuditFlags, console: Console) -> int:
    """Print every table. Returns 0; raises U190, U143, R591 for the file, N631 for an unexplained number."""
    if args.write is not None:
        _check(args.write, args.groups)
    from convworks.ledger.findings import audit, document, unexplained
    from convworks.ledger.render import text

    console.live("tracing the networks")
    result = audit(args.groups)
    console.clear()
    console.document(document(result))
    if args.write is not None:
        _write(args.write, result)
        console.say(f"wrote {folder(args.write)}: {count(len(result.findings), 'cell')}")
    for line in text(result, width=max(80, console.width)):
        console.answer(line)
    if result.unexplained:
        raise unexplained(result)
    return EXIT_OK


def _check(path: Path, groups: tuple[str, ...]) -> None:
    """Before the work: the name must say what to write, and nothing is overwritten."""
    if path.suffix not in KINDS:
        raise ConvworksError(
            "U190",
            f"an audit cannot be written as '{path.name}'",
            where=f"names end in {', '.join(KINDS)}",
            try_=command("audit", *groups, "--write", str(path.with_suffix(".md"))),
        )
    if path.exists():
        other = command("audit", *groups, "--write", str(path.with_name(f"{path.stem}-2{path.suffix}")))
        raise ConvworksError("U143", f"{path} is there already", why="nothing is overwritten", try_=other)
    if not path.parent.is_dir():
        there = command("audit", *groups, "--write", path.name)
        raise ConvworksError("R591", f"there is no folder {path.parent}", try_=there)


def _write(path: Path, result: Audit) -> None:
    from convworks.cli.console import plain
    from convworks.durable import to_json, write_atomic
    from convworks.ledger.findings import document
    from convworks.ledger.render import markdown, table_csv

    match path.suffix:
        case ".md":
            content = markdown(result).encode()
        case ".csv":
            content = table_csv(result).encode()
        case _:
            content = to_json(plain(document(result)))
    write_atomic(path, content)


VERB = Verb(
    name="audit",
    flags=AuditFlags,
    main=("write", "json"),
    examples=("convworks audit googlenet", "convworks audit --write audit.md"),
    run=run,
)
