"""`hotlap verify`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from hotlap.cli.options import AsJson, Quiet, Threads, one_of
from hotlap.errors import ArtifactRefused

if TYPE_CHECKING:
    from hotlap.artifact.sign import Wanted
    from hotlap.core import Device, Json


def verify(
    artifact: Annotated[str, typer.Argument(help="An artifact folder.")],
    target: Annotated[
        str | None, typer.Argument(help="What it was made of: measure accuracy and speed against it anew.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows in a timed call, with a target.")] = 1,
    allow_expired: Annotated[bool, typer.Option("--allow-expired", help="Take it although it has expired.")] = False,
    trust: Annotated[
        str | None, typer.Option("--trust", help="The least that must hold: 'signed' or 'made here'.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda. [default: what it was made for]")] = None,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check an artifact: intact, trusted, fresh, same answers, and what it claims borne out."""
    from hotlap.actions.verify import verify as run

    levels: tuple[Wanted, ...] = ("signed", "made here")
    devices: tuple[Device, ...] = ("cpu", "cuda")
    result = run(
        artifact,
        target,
        batch=batch,
        allow_expired=allow_expired,
        trust=one_of("--trust", trust, levels) if trust else None,
        device=one_of("--device", device, devices) if device else None,
        threads=threads,
    )
    if as_json:
        print(json.dumps(result))
    elif not quiet:
        for check in result["checks"]:
            print(f"{check['name']:14}{check['outcome']:10}{_printable(check['detail'])}")
        for line in _features(result.get("features")):
            print(_printable(line))
    failed = [check for check in result["checks"] if check["outcome"] == "failed"]
    if failed:
        raise ArtifactRefused(_printable(f"{artifact} failed {failed[0]['name']!r}: {failed[0]['detail']}"))
    if not as_json:
        print(_printable(f"{artifact}: {result['workload']} as {result['candidate']}, {result['trust']}"))


def _features(features: Json) -> list[str]:
    """The stored features that it expects: each view with its definition's digest, each input with its features."""
    if features is None:
        return []
    told = ["made of stored features, of views defined as"]
    for name, view in features["views"].items():
        ttl = "of any age" if view["ttl_seconds"] is None else f"at most {view['ttl_seconds']:,.0f} s old"
        told.append(f"  {name:24}{view['definition'][:16]}  by {', '.join(view['keys']) or 'no key'}, {ttl}")
    for name, references in features["inputs"].items():
        named = ", ".join(_with_rule(one, features) for one in references)
        told.append(f"  input {name}: {named}")
    return told


def _with_rule(reference: str, features: Json) -> str:
    view, _, name = reference.partition(":")
    rule = features["views"][view]["features"][name]["null"]
    return reference if rule == "refuse" else f"{reference} (else {rule:g})"


def _printable(text: str) -> str:
    """The text without what could steer a terminal: some of it comes from the artifact."""
    return "".join(character if character.isprintable() else "?" for character in text)
