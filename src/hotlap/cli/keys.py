"""`hotlap keys`: make a key to sign with, and say whose signatures count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hotlap.cli.options import AsJson

app = typer.Typer(help="Make keys to sign artifacts with, and say whose signatures count.", no_args_is_help=True)


@app.command("new")
def new(
    path: Annotated[Path, typer.Argument(help="Where the private key goes; the public one gets .pub.")],
) -> None:
    """Make an Ed25519 key for `hotlap optimize --sign`."""
    from hotlap.artifact.sign import make_key

    fingerprint = make_key(path)
    print(f"{path}: the private key, for --sign; keep it to yourself")
    print(f"{path}.pub: the public key {fingerprint}; others trust it with: hotlap keys trust {path.name}.pub")


@app.command("trust")
def trust(
    path: Annotated[Path, typer.Argument(metavar="PUB", help="A public key's file.")],
    name: Annotated[str | None, typer.Option("--name", help="How to call it. [default: as the file]")] = None,
) -> None:
    """Trust artifacts that are signed with a key."""
    from hotlap.artifact import keys

    known = keys.trust(path, name)
    print(f"trusted as {known}: {keys.fingerprint(keys.read_public(path))}")


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """Show the keys that are trusted."""
    from hotlap.artifact import keys

    found = {name: keys.fingerprint(public) for public, name in keys.trusted().items()}
    if as_json:
        print(json.dumps({"home": str(keys.home()), "trusted": found}))
        return
    for name, fingerprint in sorted(found.items()):
        print(f"{name}  {fingerprint}")
    if not found:
        print(f"no key is trusted in {keys.home()}; trust one with: hotlap keys trust PUB")
