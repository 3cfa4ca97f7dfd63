"""Against git's own server: protocols 2 and 0, thousands of refs, packs with deltas, object formats."""

from __future__ import annotations

from pathlib import Path

import pytest

import weighlock as wl
from tests.hub_git_server import GitServer
from tests.hub_host import Repository, git, text_of
from tests.test_hub_load import files

pytestmark = pytest.mark.one_lane

hub = wl.hub


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "served"
    path.mkdir()
    return path


@pytest.fixture(params=[2, 0], ids=["protocol 2", "protocol 0"])
def server(request, host, folder):
    with GitServer(folder, request.param) as running:
        running.version = request.param
        yield running


def load(server, ref="", **options):
    return hub.load(f"git+{server.url}/n/.git{ref}", "net", trust_repo=True, **options).version


class TestRefs:
    def test_every_form_of_a_ref(self, server, folder):
        repository = Repository(folder / "n")
        first = repository.commit(files("first"))
        repository.commit(files("tagged"), tag="v1", annotated="a1")
        git(repository.folder, "tag", "-a", "-m", "x", "twice", "a1")
        repository.commit(files("branch"), branch="with/slash")
        repository.commit(files("last"), branch="trunk")
        found = {
            ref: _commit(server, ref)
            for ref in ("", "@trunk", "@v1", "@a1", "@twice", "@with/slash", "@refs/tags/a1", "@refs/heads/with/slash")
        }
        expected = {name: text_of(repository.folder, "rev-parse", f"{name}^{{commit}}")
                    for name in ("HEAD", "trunk", "v1", "a1", "twice", "with/slash")}  # fmt: skip
        assert found == {
            "": expected["HEAD"], "@trunk": expected["trunk"], "@v1": expected["v1"], "@a1": expected["v1"],
            "@twice": expected["v1"], "@with/slash": expected["with/slash"], "@refs/tags/a1": expected["v1"],
            "@refs/heads/with/slash": expected["with/slash"],
        }  # fmt: skip
        assert _commit(server, f"@{first}") == first

    def test_a_detached_head(self, server, folder):
        repository = Repository(folder / "n")
        commit = repository.commit(files())
        git(repository.folder, "checkout", "-q", "--detach")
        repository.commit(files("detached"))
        assert _commit(server, "") != commit

    def test_an_empty_repository(self, server, folder):
        Repository(folder / "n")
        with pytest.raises(wl.HubError, match="Cannot find a default branch"):
            _commit(server, "")

    def test_what_is_not_there(self, server, folder):
        Repository(folder / "n").commit(files(), tag="v1.0")
        with pytest.raises(wl.NotInRepositoryError, match=r"Cannot find v1\.1"):
            _commit(server, "@v1.1")
        with pytest.raises(wl.NotInRepositoryError, match="there is no repository"):
            hub.load(f"git+{server.url}/other/.git", "net", trust_repo=True)

    def test_three_thousand_refs(self, server, folder):
        repository = Repository(folder / "n")
        commit = repository.commit(files("right"))
        refs = sorted(f"refs/{kind}/x{number}" for number in range(1500) for kind in ("tags", "heads"))
        text = "# pack-refs with: sorted\n" + "".join(f"{commit} {ref}\n" for ref in refs)
        (repository.folder / ".git" / "packed-refs").write_text(text)
        assert git(repository.folder, "for-each-ref").count(b"\n") == 3001
        assert _commit(server, "") == _commit(server, "@x7") == _commit(server, "@refs/tags/x1499") == commit
        most = max(size for method, path, size in server.log if "upload-pack" in path and method == "POST")
        if server.version == 2:
            assert most < 20_000, "one ref is asked for, not all of them"


def _commit(server, ref):
    import weighlock.hub.download
    import weighlock.hub.refs
    from weighlock.hub.settings import current
    from weighlock.hub.sources import parse

    repository = parse(f"git+{server.url}/n/.git{ref}", "git", current())
    return weighlock.hub.refs.resolve(repository, weighlock.hub.download.Client(current())).commit


class TestContent:
    @pytest.fixture
    def server(self, host, folder):
        with GitServer(folder) as running:
            yield running

    def test_a_pack_with_deltas(self, server, folder, store):
        repository = Repository(folder / "n")
        lines = [f"{number} some line of a table\n" for number in range(5000)]
        more = {f"table{index}.txt": "".join(lines[: 4000 + index]) for index in range(40)}
        repository.commit({**files("v1"), **more, "run.sh": "true\n", "link": ("utils.py",)}, tag="v1")
        git(repository.folder, "gc", "-q", "--aggressive", "--prune=now")
        assert load(server, "@v1") == "v1"
        (tree,) = (path.parent for path in Path(store.root).rglob("hubconf.py"))
        assert {name: (tree / name).read_text() for name in more} == more
        assert (tree / "run.sh").stat().st_mode & 0o100
        assert (tree / "link").is_symlink()
        largest = max(size for _, _, size in server.log)
        assert largest < sum(map(len, more.values())) // 10, "what arrived was a pack of deltas"

    def test_one_commit_without_its_history(self, server, folder):
        repository = Repository(folder / "n")
        for number in range(5):
            repository.commit({**files(f"v{number}"), "large.txt": str(number) * 100_000})
        assert load(server) == "v4"
        assert max(size for _, _, size in server.log) < 20_000

    def test_ids_of_sha_256_are_said_not_to_be_known(self, server, folder):
        (folder / "n").mkdir()
        try:
            git(folder / "n", "init", "-q", "-b", "trunk", "--object-format=sha256")
        except LookupError:
            pytest.skip("this git has no SHA-256")
        (folder / "n" / "hubconf.py").write_text("def net():\n    return 1\n")
        git(folder / "n", "add", "-A")
        git(folder / "n", "commit", "-q", "-m", "x")
        with pytest.raises(wl.HubError, match="sha256"):
            _commit(server, "")
        with pytest.raises(wl.HubError, match="sha256"):
            _commit(server, "@trunk")
