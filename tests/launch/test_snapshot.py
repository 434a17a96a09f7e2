"""A snapshot is the commit and what was changed since, and nothing that git does not know."""

import subprocess

import pytest

from launch import snapshot


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    root.mkdir()
    for words in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        subprocess.run(["git", "-C", str(root), *words], check=True)
    (root / "configs").mkdir()
    (root / "configs" / "a.py").write_text("old\n")
    (root / "gone.py").write_text("gone\n")
    (root / "picture.bin").write_bytes(bytes(range(256)))
    subprocess.run(["git", "-C", str(root), "add", "."], check=True)
    subprocess.run(["git", "-C", str(root), "commit", "-qm", "one"], check=True)
    return root


def taken(root, files=None):
    code = snapshot.code(root)
    path = code.path("job", files or {})
    snapshot.write(code, path, files or {})
    return code, path


def test_a_clean_checkout_is_its_commit(checkout):
    code, path = taken(checkout, {"jobs/job.sh": "echo ü\n"})
    assert code.stamp == code.commit
    assert (path / "configs" / "a.py").read_text() == "old\n"
    assert (path / "jobs" / "job.sh").read_text(encoding="utf-8") == "echo ü\n"
    assert path.parent == checkout / snapshot.FOLDER


def test_changes_additions_deletions_and_binaries_are_in_it(checkout):
    (checkout / "configs" / "a.py").write_text("new  \n")
    (checkout / "gone.py").unlink()
    (checkout / "picture.bin").write_bytes(bytes(reversed(range(256))))
    (checkout / "added.py").write_text("added\n")
    (checkout / "unknown.py").write_text("unknown\n")
    subprocess.run(["git", "-C", str(checkout), "add", "added.py"], check=True)
    code, path = taken(checkout)
    assert code.stamp == code.commit + "+changes"
    assert (path / "configs" / "a.py").read_text() == "new  \n"
    assert (path / "picture.bin").read_bytes() == bytes(reversed(range(256)))
    assert (path / "added.py").exists()
    assert not (path / "gone.py").exists()
    assert not (path / "unknown.py").exists()


def test_later_changes_do_not_reach_it_and_have_a_place_of_their_own(checkout):
    _, first = taken(checkout)
    (checkout / "configs" / "a.py").write_text("later\n")
    _, second = taken(checkout)
    assert first != second
    assert (first / "configs" / "a.py").read_text() == "old\n"
    assert taken(checkout)[1] == second
    assert snapshot.code(checkout).path("job", {"a": "1"}) != snapshot.code(checkout).path("job", {"a": "2"})


def test_a_config_that_git_does_not_know_would_be_missing_there(checkout):
    (checkout / "configs" / "mine.py").write_text("mine\n")
    with pytest.raises(ValueError, match="configs/mine.py:arg is not in git.*git add configs/mine.py"):
        snapshot.code(checkout, "configs/mine.py:arg")
    with pytest.raises(ValueError, match="no such file"):
        snapshot.code(checkout, "configs/missing.py")
    snapshot.code(checkout, "configs/a.py:tiny")


def test_a_folder_without_history_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no git checkout with a commit"):
        snapshot.code(tmp_path)


def test_an_interrupted_one_is_not_taken_for_whole(checkout, monkeypatch):
    code = snapshot.code(checkout)
    path = code.path("job", {})

    def broken(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshot.subprocess, "run", broken)
    with pytest.raises(KeyboardInterrupt):
        snapshot.write(code, path, {})
    assert not path.exists()
    assert not list(path.parent.glob(".job*"))
