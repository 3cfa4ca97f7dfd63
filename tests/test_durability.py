"""Faults that really happen: processes killed while they save, full disks, failing disks, other people's folders.

Counts are small enough for every day; ``make soak`` multiplies them (``WEIGHLOCK_SOAK``).
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from weighlock.errors import SaveError, TargetError, WeighlockError
from weighlock.loading import load
from weighlock.saving import save

SOAK = int(os.environ.get("WEIGHLOCK_SOAK", "1"))
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="this fault is made with means of Linux")
HAS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def python(script: str, *, before: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def passes(script: str, **options) -> None:
    done = python(script, **options)
    assert done.returncode == 0, done.stdout + done.stderr


# Kills

NURSERY = """
import os, random, signal, sys, time, warnings
import numpy as np
import weighlock
from weighlock.background import save_async
from weighlock.checkpointer import Checkpointer
from weighlock.loading import load
from weighlock.saving import save

folder, kills, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
warnings.simplefilter("error")
target = os.path.join(folder, "model.pt")
random.seed(os.getpid())

def tree(generation, size):
    return {"generation": generation, "big": np.full(size, generation, "i8"), "small": [np.full(9, generation)] * 3}

def child(generation):
    # Sizes from a few kilobytes to some megabytes: kills then fall into every part of a save.
    while True:
        generation += 1
        made = tree(generation, random.choice((1_000, 60_000, 600_000)))
        if kind == "save":
            save(made, target, durable=random.random() < 0.2)
        elif kind == "legacy":
            save(made, target, _use_new_zipfile_serialization=False)
        else:
            save_async(made, target)

def whole():
    loaded = load(target)
    assert (loaded["big"] == loaded["generation"]).all()
    assert all((part == loaded["generation"]).all() for part in loaded["small"])
    return loaded["generation"]

save(tree(0, 10), target)
generation = caught = 0
for _ in range(kills):
    pid = os.fork()
    if not pid:
        try:
            child(generation)
        finally:
            os._exit(1)
    time.sleep(random.random() ** 2 * 0.03)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"the child ended by itself: {status}"
    found = whole()
    assert found >= generation, (found, generation)
    left = sorted(os.listdir(folder))
    caught += left != ["model.pt"]
    assert len(left) <= 2, left
    generation = found + 1
    save(tree(generation, 10), target)
    assert os.listdir(folder) == ["model.pt"], os.listdir(folder)
print(caught)
"""


def nurseries(tmp_path: Path, script: str, *kinds: str, kills: int) -> list[int]:
    running = []
    for index, kind in enumerate(kinds):
        folder = tmp_path / f"{index}"
        folder.mkdir()
        command = [sys.executable, "-c", script, str(folder), str(kills), kind]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    outputs = [process.communicate() for process in running]
    for process, (_, error) in zip(running, outputs, strict=True):
        assert process.returncode == 0, error
    return [int(output) for output, _ in outputs]


@HAS_FORK
@pytest.mark.timeout(60 + 240 * SOAK)
def test_a_killed_save_leaves_the_old_file_or_the_new_one(tmp_path):
    """Four processes at once, each with children that save again and again and are killed: 400 kills."""
    kills = 100 * SOAK
    caught = nurseries(tmp_path, NURSERY, "save", "save", "async", "legacy", kills=kills)
    assert sum(caught) >= 20, f"only {caught} of {kills} kills each came while a file was being written"


CHECKPOINTS = """
import os, random, signal, sys, time, warnings
import numpy as np
import weighlock
from weighlock.checkpointer import Checkpointer

folder, kills, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
warnings.simplefilter("error")
random.seed(os.getpid())

def child(step, told):
    checkpoints = Checkpointer(folder, keep=2)
    while True:
        step += 1
        made = {"step": step, "big": np.full(random.choice((1_000, 300_000)), step, "i8")}
        if kind == "save":
            checkpoints.save(made, step)
        else:
            checkpoints.save_async(made, step).result()
        os.write(told, step.to_bytes(8, "little"))

step = caught = 0
weighlock.save([np.zeros(1, "i8")], "/dev/null")  # what is imported late is imported now
for _ in range(kills):
    heard, told = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            child(step, told)
        finally:
            os._exit(1)
    os.close(told)
    time.sleep(0.002 + random.random() ** 2 * 0.03)
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    promised = b""
    while more := os.read(heard, 1 << 16):
        promised += more
    os.close(heard)
    found = Checkpointer(folder).load_latest()
    if promised:
        assert found is not None and found.step >= int.from_bytes(promised[-8:], "little")
    if found is not None:
        assert found.step >= step and found.object["step"] == found.step
        assert (found.object["big"] == found.step).all()
        step = found.step
    names = os.listdir(folder)
    caught += any(name.endswith("weighlock-tmp") for name in names)
step += 1
Checkpointer(folder, keep=2).save({"step": step, "big": np.zeros(1)}, step)
assert len(os.listdir(folder)) <= 2, os.listdir(folder)
print(caught)
"""


@HAS_FORK
@pytest.mark.timeout(60 + 120 * SOAK)
def test_a_killed_checkpointer_loses_nothing_that_it_promised(tmp_path):
    caught = nurseries(tmp_path, CHECKPOINTS, "save", "async", kills=50 * SOAK)
    assert sum(caught) >= 5, caught


# Full disks


@functools.cache
def small_disk() -> tuple[str, ...]:
    """The words before a command that let it mount file systems of its own; the test is skipped where none may."""
    for before in (("unshare", "-m"), ("unshare", "-rm")):
        if shutil.which("unshare") is None:
            break
        probe = 'mount -t tmpfs -o size=64k none "$1"'
        done = subprocess.run([*before, "sh", "-c", probe, "sh", "/mnt"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return before
    pytest.skip("file systems may not be mounted here, not even in a namespace of one's own")


FULL = """
import errno, os, subprocess, sys
import numpy as np
from weighlock import background, checkpointer
from weighlock.errors import TargetError
from weighlock.loading import load
from weighlock.saving import save
from weighlock.storages import sinks

folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], check=True)
reserving, zipped = sys.argv[2] == "reserve", sys.argv[3] == "zip"
if not reserving:
    sinks._allocator = lambda: None
options = {"_use_new_zipfile_serialization": zipped}
target = os.path.join(folder, "a.pt")
save({"a": np.ones(250_000)}, target, **options)
before = open(target, "rb").read()
big = {"a": np.ones(100_000), "b": np.ones(400_000)}

def check(error):
    assert error.errno == errno.ENOSPC and error.path == target, error
    needed = 3_200_000 + 800_000
    assert needed < int(error.expected.split()[0]) < needed + 5_000, error
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    assert int(error.got.split()[0]) == free, (error, free)
    assert f"{int(error.expected.split()[0]) - free} bytes are missing" in str(error), error
    assert os.listdir(folder) == ["a.pt"], os.listdir(folder)
    assert open(target, "rb").read() == before

for _ in range(3):
    try:
        save(big, target, **options)
    except TargetError as error:
        check(error)
    else:
        raise AssertionError("it fits")
future = background.save_async(big, target, **options)
check(future.exception(60))
for step in range(8):
    try:
        checkpointer.Checkpointer(folder, keep=3).save({"a": np.full(60_000, step)}, step)
    except TargetError as error:
        assert error.errno == errno.ENOSPC
        break
found = checkpointer.Checkpointer(folder).load_latest()
assert found.step == step - 1 if step < 7 else 7, (found, step)
filler = os.open(os.path.join(folder, "filler"), os.O_WRONLY | os.O_CREAT)
try:
    while True:
        os.write(filler, bytes(4096))
except OSError:
    pass
try:
    save({"a": 1}, target, **options)
except TargetError as error:
    assert error.errno == errno.ENOSPC, error
else:
    raise AssertionError("it fits")
assert open(target, "rb").read() == before
"""


@ON_LINUX
@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("way", ["reserve", "write"])
def test_a_full_disk(tmp_path, way, kind):
    before = small_disk()
    command = [*before, sys.executable, "-c", FULL, str(tmp_path), way, kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@ON_LINUX
def test_a_disk_that_is_mounted_read_only(tmp_path):
    passes(
        f"""
        import os, subprocess, errno
        from weighlock.errors import TargetError
        from weighlock.saving import save
        save([1], {str(tmp_path / "a.pt")!r})
        subprocess.run(["mount", "--bind", "-o", "ro", {str(tmp_path)!r}, {str(tmp_path)!r}], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", {str(tmp_path)!r}], check=True)
        try:
            save([2], {str(tmp_path / "a.pt")!r})
        except TargetError as error:
            assert error.errno in (None, errno.EROFS), error
        else:
            raise AssertionError
        """,
        before=small_disk(),
    )
    assert load(tmp_path / "a.pt") == [1]
    assert os.listdir(tmp_path) == ["a.pt"]


# Failing disks: calls on the temporary file go through a library of our own.

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int ours(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return strstr(path, ".weighlock-tmp") != NULL;
}

/* 0: go on; 1: fail */
static int fails(const char *call, int descriptor) {
    static int calls = 0;
    const char *wanted = getenv("FAULT_CALL");
    if (wanted == NULL || strstr(wanted, call) == NULL || !ours(descriptor)) return 0;
    if (calls++ < atoi(getenv("FAULT_AFTER"))) return 0;
    errno = atoi(getenv("FAULT_ERRNO"));
    return 1;
}

static size_t shortened(size_t size, int descriptor) {
    const char *most = getenv("FAULT_SHORT");
    if (most == NULL || !ours(descriptor)) return size;
    size_t limit = (size_t) (1 + rand() % atoi(most));
    return size < limit ? size : limit;
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    if (fails("pwrite", descriptor)) return -1;
    return real(descriptor, data, shortened(size, descriptor), offset);
}
ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return pwrite64(descriptor, data, size, offset);
}
ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off64_t offset) {
    static ssize_t (*real)(int, const struct iovec *, int, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwritev64");
    if (fails("pwrite", descriptor)) return -1;
    if (getenv("FAULT_SHORT") != NULL && ours(descriptor)) {
        if (parts[0].iov_len == 0) return real(descriptor, parts, 1, offset);
        return pwrite64(descriptor, parts[0].iov_base, parts[0].iov_len, offset);
    }
    return real(descriptor, parts, count, offset);
}
ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset) {
    return pwritev64(descriptor, parts, count, offset);
}
int fsync(int descriptor) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    return fails("sync", descriptor) ? -1 : real(descriptor);
}
int fdatasync(int descriptor) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    return fails("sync", descriptor) ? -1 : real(descriptor);
}
int close(int descriptor) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "close");
    int failed = fails("close", descriptor), error = errno;
    int result = real(descriptor);
    if (!failed) return result;
    errno = error;
    return -1;
}
"""

FAILING = """
import os, sys
import numpy as np
from weighlock.errors import TargetError
from weighlock.loading import load
from weighlock.saving import save
target, expected = sys.argv[1], int(sys.argv[2])
options = {"durable": sys.argv[3] == "durable"}
tree = {"big": np.arange(700_000), "middle": np.arange(9_000), "many": [np.full(50, n) for n in range(3_000)]}
try:
    save(tree, target, **options)
except TargetError as error:
    assert error.errno == expected, error
    assert load(target) == "old"
else:
    assert not expected
    loaded = load(target)
    assert all((one == other).all() for one, other in zip(loaded["many"], tree["many"]))
    assert (loaded["big"] == tree["big"]).all() and (loaded["middle"] == tree["middle"]).all()
assert os.listdir(os.path.dirname(target)) == ["a.pt"], os.listdir(os.path.dirname(target))
"""


@pytest.fixture(scope="session")
def shim(tmp_path_factory) -> str:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    made = str(folder / "shim.so")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, str(folder / "shim.c"), "-ldl"], check=True)
    return made


def with_faults(shim: str, tmp_path: Path, expected: int, durable: str, **faults: str) -> None:
    (tmp_path / "folder").mkdir()
    target = str(tmp_path / "folder" / "a.pt")
    save("old", target)
    done = subprocess.run(
        [sys.executable, "-c", FAILING, target, str(expected), durable],
        capture_output=True, text=True, check=False, env={**os.environ, "LD_PRELOAD": shim, **faults},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@ON_LINUX
@pytest.mark.parametrize(("call", "after"), [("pwrite", 0), ("pwrite", 1), ("pwrite", 4), ("sync", 0), ("close", 0)])
def test_a_disk_that_fails(shim, tmp_path, call, after):
    import errno

    for durable in ("durable", "usual"):
        folder = tmp_path / durable
        folder.mkdir()
        with_faults(
            shim, folder, errno.EIO, durable,
            FAULT_CALL=call, FAULT_AFTER=str(after), FAULT_ERRNO=str(errno.EIO),
        )  # fmt: skip


@ON_LINUX
def test_a_close_that_fails_when_the_file_has_its_name(shim, tmp_path):
    with_faults(shim, tmp_path, 0, "usual", FAULT_CALL="close", FAULT_AFTER="1", FAULT_ERRNO="5")


@ON_LINUX
def test_a_quota_that_is_exceeded_while_writing(shim, tmp_path):
    import errno

    with_faults(
        shim, tmp_path, errno.EDQUOT, "usual", FAULT_CALL="pwrite", FAULT_AFTER="2", FAULT_ERRNO=str(errno.EDQUOT)
    )


@ON_LINUX
@pytest.mark.parametrize("most", ["70000", "3000"])
def test_writes_that_are_cut_short(shim, tmp_path, most):
    with_faults(shim, tmp_path, 0, "usual", FAULT_SHORT=most)


# Folders and limits

AS_NOBODY = """
import os
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


@HAS_FORK
def test_a_folder_that_may_not_be_written(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    save([1], folder / "a.pt")
    (folder / "a.pt").chmod(0o666)
    folder.chmod(0o555)
    for parent in (tmp_path, *list(tmp_path.parents)[:-1]):
        if parent.owner() == folder.owner() and not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o011)
    done = python(f"""
import errno, numpy, weighlock.saving, weighlock.loading, weighlock.storages.targets
from weighlock.errors import TargetError
from weighlock.saving import save
save([numpy.ones(3)], "/dev/null")
{AS_NOBODY}
for name in ("a.pt", "new.pt"):
    try:
        save([2], {str(folder)!r} + "/" + name)
    except TargetError as error:
        assert error.errno == errno.EACCES, error
        assert "permissions" in str(error), error
    else:
        raise AssertionError("it could be written")
""")
    folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert load(folder / "a.pt") == [1]
    assert os.listdir(folder) == ["a.pt"]


@ON_LINUX
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_mode_owner_and_attributes_stay(tmp_path):
    target = tmp_path / "a.pt"
    save([1], target)
    os.chown(target, 1234, 4321)
    target.chmod(0o640)
    attributes = True
    try:
        os.setxattr(target, "user.note", b"kept")
    except OSError:
        attributes = False
    save([2], target)
    status = target.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 4321, 0o640)
    assert not attributes or os.getxattr(target, "user.note") == b"kept"


@ON_LINUX
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_group_that_cannot_be_kept_gives_no_rights_to_another(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    save([1], folder / "a.pt")
    os.chown(folder / "a.pt", 65534, 4321)
    (folder / "a.pt").chmod(0o660)
    passes(f"""
import numpy, os, weighlock.saving
from weighlock.saving import save
save([numpy.ones(3)], "/dev/null")
os.chdir({str(folder)!r})
{AS_NOBODY}
save([2], "a.pt")
""")
    status = (folder / "a.pt").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (65534, 65534, 0o600)
    assert load(folder / "a.pt") == [2]


def test_a_folder_that_vanishes(tmp_path):
    errors: list[BaseException] = []
    tree = {"a": np.ones(500_000)}

    def work(folder):
        try:
            while True:
                save(tree, folder / "a.pt")
        except BaseException as error:
            errors.append(error)

    for index in range(5 * SOAK):
        folder = tmp_path / f"{index}"
        folder.mkdir()
        writer = threading.Thread(target=work, args=(folder,))
        writer.start()
        time.sleep(0.003 * (index % 7))
        while folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        writer.join(60)
    assert len(errors) == 5 * SOAK
    assert all(isinstance(error, TargetError) for error in errors), errors
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "a.pt").mkdir()
    with pytest.raises(TargetError, match="folder"):
        save([1], tmp_path / "a.pt")
    assert os.listdir(tmp_path) == ["a.pt"]


@ON_LINUX
@pytest.mark.parametrize("way", ["reserve", "write"])
def test_a_limit_on_the_size_of_files(tmp_path, way):
    save([1], tmp_path / "a.pt")
    passes(f"""
import errno, resource, signal, numpy
from weighlock.errors import TargetError
from weighlock.saving import save
from weighlock.storages import sinks
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if {way!r} == "write":
    sinks._allocator = lambda: None
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    save([numpy.ones(500_000)], {str(tmp_path / "a.pt")!r})
except TargetError as error:
    assert error.errno == errno.EFBIG and "ulimit" in str(error), error
else:
    raise AssertionError
""")
    assert load(tmp_path / "a.pt") == [1]
    assert os.listdir(tmp_path) == ["a.pt"]


@ON_LINUX
def test_no_more_open_files(tmp_path):
    save([1], tmp_path / "a.pt")
    passes(f"""
import errno, os, resource, numpy
from weighlock.errors import TargetError
from weighlock.saving import save
save([numpy.ones(5)], "/dev/null")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
failed = 0
while True:
    try:
        held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        break
while held:  # with no descriptor left, then one, two ...: every open in a save fails once
    try:
        save([numpy.ones(5)], {str(tmp_path / "a.pt")!r}, durable=True)
        break
    except TargetError as error:
        assert error.errno == errno.EMFILE, error
        failed += 1
    os.close(held.pop())
assert 1 <= failed <= 5, failed
""")
    assert os.listdir(tmp_path) == ["a.pt"]
    assert (load(tmp_path / "a.pt")[0] == 1).all()


# Files that are in use


@pytest.mark.parametrize("zipped", [True, False])
def test_over_ones_own_memory_map(tmp_path, zipped):
    target = tmp_path / "a.pt"
    save({"a": np.arange(400_000), "b": np.arange(10)}, target, _use_new_zipfile_serialization=zipped)
    try:
        mapped = load(target, mmap=True)
    except WeighlockError:
        pytest.skip("this format is not mapped")
    for _ in range(3):
        save(mapped, target)
        assert (mapped["a"] == np.arange(400_000)).all()
        mapped = load(target, mmap=True)
    assert (mapped["b"] == np.arange(10)).all()
    assert os.listdir(tmp_path) == ["a.pt"]


def test_over_ones_own_memory_map_with_pytorch(torch, tmp_path):
    import weighlock.torch

    target = tmp_path / "a.pt"
    torch.save({"a": torch.arange(400_000)}, target)
    for loader in (torch.load, weighlock.torch.load):
        mapped = loader(target, mmap=True, weights_only=True)
        weighlock.torch.save(mapped, target)
        assert torch.equal(mapped["a"], torch.arange(400_000))
        assert torch.equal(torch.load(target)["a"], torch.arange(400_000))


def rewriting(target: Path, contents: list[bytes], stop: threading.Event) -> None:
    """Write into a file again and again as others do: in place, cut off first or not."""
    turn = 0
    while not stop.is_set():
        turn += 1
        content = contents[turn % len(contents)]
        with open(target, "wb" if turn % 3 else "r+b") as file:
            for start in range(0, len(content), 300_000):
                file.write(content[start : start + 300_000])
                if turn % 5 == 0:
                    file.flush()
                    os.truncate(target, start // 2)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_rewritten_while_it_is_read(tmp_path, zipped):
    """There is an error, or one content: never a mixture that passes for whole, and never a crash.

    The legacy stream has no checksums: there, a mixture of data cannot be told.
    """
    contents = []
    for value, size in ((1, 500_000), (2, 500_000), (3, 200_000)):
        tree = {"value": value, "arrays": [np.full(size, value, "i8"), np.full(30, value, "i8")]}
        save(tree, tmp_path / "made.pt", _use_new_zipfile_serialization=zipped)
        contents.append((tmp_path / "made.pt").read_bytes())
    target, stop = tmp_path / "a.pt", threading.Event()
    target.write_bytes(contents[0])
    writer = threading.Thread(target=rewriting, args=(target, contents, stop))
    writer.start()
    outcomes = {"whole": 0, "error": 0}
    try:
        for _ in range(60 * SOAK):
            try:
                loaded = load(target)
            except WeighlockError:
                outcomes["error"] += 1
                continue
            outcomes["whole"] += 1
            if zipped:
                assert all((array == loaded["value"]).all() for array in loaded["arrays"])
    finally:
        stop.set()
        writer.join(60)
    assert outcomes["error"]


def test_a_file_that_is_replaced_while_it_is_read(tmp_path):
    target, stop = tmp_path / "a.pt", threading.Event()
    save({"value": 0, "array": np.zeros(300_000, "i8")}, target)

    def write():
        value = 0
        while not stop.is_set():
            value += 1
            save({"value": value, "array": np.full(300_000, value)}, target)

    writer = threading.Thread(target=write)
    writer.start()
    last = reads = 0
    deadline = time.monotonic() + 60  # a disk that is busy lets the writer wait for seconds
    try:
        while reads < 50 * SOAK or (not last and time.monotonic() < deadline):
            reads += 1
            loaded = load(target)
            assert (loaded["array"] == loaded["value"]).all()
            assert loaded["value"] >= last
            last = loaded["value"]
    finally:
        stop.set()
        writer.join(60)
    assert last > 0


# What is left behind


@HAS_FORK
def test_only_what_nobody_holds_is_removed(tmp_path):
    """What another process is writing stays, what nobody holds goes, and other names are not touched."""
    done = python(f"""
import os, signal, numpy
from weighlock.storages import targets
folder = {str(tmp_path)!r}
heard, told = os.pipe()
pid = os.fork()
if not pid:
    path, descriptor = targets._create(folder, "held.pt", 0o644)
    os.write(told, path.encode())
    signal.pause()
path = os.read(heard, 4096).decode()
orphan, descriptor = targets._create(folder, "orphan.pt", 0o644)
os.close(descriptor)
for name in (".other", ".x.tmp", "y.weighlock-tmp"):
    open(os.path.join(folder, name), "w").close()
os.symlink(os.path.join(folder, ".other"), os.path.join(folder, ".link.weighlock-tmp"))
os.mkfifo(os.path.join(folder, ".pipe.weighlock-tmp"))
targets.sweep(folder)
assert os.path.exists(path) and not os.path.exists(orphan)
assert len(os.listdir(folder)) == 6, os.listdir(folder)
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
targets.sweep(folder)
assert not os.path.exists(path)
""")
    assert done.returncode == 0, done.stderr


def test_saves_into_one_folder_do_not_hinder_each_other(tmp_path):
    errors: list[BaseException] = []

    def work(number):
        try:
            for turn in range(20):
                save({"a": np.full(2_000, turn)}, tmp_path / f"{number % 2}.pt")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not errors
    assert sorted(os.listdir(tmp_path)) == ["0.pt", "1.pt"]
    assert all((load(tmp_path / f"{number}.pt")["a"] == 19).all() for number in range(2))


def test_a_reader_and_a_pipe(tmp_path):
    """Not atomic, as the docs say; but every byte arrives."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this system")
    os.mkfifo(tmp_path / "pipe")
    save({"a": np.arange(300_000)}, tmp_path / "file")
    writer = threading.Thread(
        target=save, args=({"a": np.arange(300_000)}, tmp_path / "pipe"), kwargs={"durable": True}
    )
    writer.start()
    assert (tmp_path / "pipe").read_bytes() == (tmp_path / "file").read_bytes()
    writer.join(60)


def test_a_reader_that_goes_away(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this system")
    os.mkfifo(tmp_path / "pipe")
    errors: list[BaseException] = []

    def work():
        try:
            save({"a": np.arange(3_000_000)}, tmp_path / "pipe")
        except SaveError as error:
            errors.append(error)

    writer = threading.Thread(target=work)
    writer.start()
    with open(tmp_path / "pipe", "rb") as pipe:
        pipe.read(10)
    writer.join(60)
    assert isinstance(errors[0].__cause__, BrokenPipeError)
