"""Machines that lack what most have: a command works without it, or says in one line what to do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import io
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import console
import pytest

from aotsearch import surroundings
from aotsearch.errors import InputError, RunError
from aotsearch.evidence.ledger import Ledger
from aotsearch.running import connection
from aotsearch.running.progress import Progress
from aotsearch.study.loading import load
from aotsearch.tasks import cache
from aotsearch.tracking import view

ROOT = Path(__file__).parents[1]
QUESTION = "模型需要它的部件吗? 🤖"


def child(*arguments: str, cwd: Path | None = None, **how: object) -> subprocess.CompletedProcess[str]:
    """`python -m aotsearch` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **how.pop("env", {})}  # type: ignore[dict-item]
    argv = [sys.executable, "-m", "aotsearch", *arguments]
    return subprocess.run(argv, stderr=subprocess.PIPE, text=True, timeout=120, cwd=cwd, env=environment, **how)  # type: ignore[call-overload]


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


# ---- a user whom the machine does not know


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No HOME, no name, and a number that no file knows; returns the folder for temporary files."""
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "/set")  # so that it is as before after the test
        monkeypatch.delenv(name)

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_user_without_a_name_or_a_home_gets_both(nobody: Path) -> None:
    surroundings.identity()
    assert getpass.getuser() == f"uid{os.getuid()}"
    home = Path.home()
    assert home.parent == nobody and home.is_dir() and home.stat().st_mode & 0o777 == 0o700
    os.environ.pop("HOME")
    surroundings.identity()
    assert Path.home() == home, "what was prepared there is found again"


def test_a_home_that_somebody_else_may_write_to_is_not_taken(nobody: Path) -> None:
    planted = nobody / f"aotsearch-home-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    surroundings.identity()
    assert Path.home() != planted and Path.home().is_dir()


def test_mlflow_writes_for_a_user_without_a_name_or_a_home(nobody: Path, study_file: Path) -> None:
    surroundings.identity()
    study = load(study_file)
    store = view._opened(nobody, study, "")
    store.end("FINISHED", None)
    assert (nobody / "mlflow.db").exists()


# ---- streams


def test_a_question_in_any_script_is_shown_where_only_ascii_is(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for errors in ("strict", "surrogateescape"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)
        monkeypatch.setattr(sys, "stdout", stream)
        surroundings.streams()
        surroundings.put(QUESTION)
        assert rb"\U0001f916" in stream.buffer.getvalue()  # type: ignore[attr-defined]
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    surroundings.streams()
    surroundings.put(QUESTION + "\udcff")  # of a file's name that is no text
    assert QUESTION.encode() in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_closed_streams_take_no_file_of_ours(study_file: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    opened = "import os; from aotsearch import surroundings as s; s.streams(); os._exit(os.open(os.devnull, os.O_RDONLY))"
    for command, expected in ((f"-m aotsearch check {study_file}", {0}), (f"-c '{opened}'", range(3, 99))):
        shut = subprocess.run(["sh", "-c", f"{sys.executable} {command} <&- >&- 2>&-"], env=environment, timeout=60, check=False)
        assert shut.returncode in expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_standard_output_is_one_line(study_file: Path) -> None:
    for arguments in (["check", str(study_file)], ["--help"]):
        with open("/dev/full", "w") as full:
            found = child(*arguments, stdout=full)
        assert found.returncode == 1
        assert one_line(found.stderr).startswith("standard output cannot be written: No space left on device")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_run_goes_on_when_standard_error_is_full_or_its_reader_is_gone() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        progress = Progress("loss", "bits/byte", full)
        progress.say("one")
        progress.say("two")
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as gone:
        Progress("loss", "bits/byte", gone).say("one")


# ---- the working folder


def test_modules_in_the_working_folder_shadow_none(tmp_path: Path, study_file: Path) -> None:
    for name in ("numpy", "random", "profile", "typing_extensions"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    found = child("check", study_file.name, cwd=tmp_path, stdout=subprocess.PIPE)
    assert (found.returncode, found.stderr) == (0, "") and "4 arms" in found.stdout


def test_workers_search_the_working_folder_only_where_the_driver_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        def _runtime_env_has_working_dir(self) -> bool:
            return False

    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    assert connection.job(Plain)._runtime_env_has_working_dir()
    for place in ("", os.getcwd()):  # noqa: PTH109
        monkeypatch.setattr(sys, "path", ["/elsewhere", place])
        assert not connection.job(Plain)._runtime_env_has_working_dir()


def test_ray_asks_its_job_for_what_keeps_the_working_folder_away() -> None:
    import inspect

    worker, config = pytest.importorskip("ray._private.worker"), pytest.importorskip("ray.job_config")
    assert inspect.getsource(worker.connect).count("_runtime_env_has_working_dir()") == 2
    assert connection.job(config.JobConfig)._serialize() is not None


def test_a_removed_working_folder_is_one_line(tmp_path: Path, study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InputError, match="the working folder was removed"):
        surroundings.required_folder()
    assert "the working folder was removed" in surroundings.lacking(FileNotFoundError())
    monkeypatch.chdir(tmp_path)
    assert surroundings.lacking(FileNotFoundError()) == ""


# ---- disks


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_a_disk_without_locks_is_told_and_written_to(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    ledger = Ledger(tmp_path)
    with ledger.lock():
        ledger.append("run", command="", study="")
    assert "its disk knows no locks" in one_line(caplog.messages[0]) and not ledger.locked
    assert [e["event"] for e in Ledger(tmp_path).events()][-1] == "run"


def test_a_run_folder_of_somebody_else_is_refused_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(RunError, match="cannot be written: Permission denied; choose another --out"), Ledger(tmp_path).lock():
        pass


def test_prepared_data_of_somebody_else_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(RunError, match=r"facts.json: Permission denied; .*AOTSEARCH_CACHE"):
        cache.prepared(tmp_path, lambda: ({}, {}))


def test_ray_gets_a_short_folder_where_that_of_the_environment_is_long_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    assert connection.temporary() is None
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert connection.temporary() is None
    long = tmp_path / ("x" * 100)
    long.mkdir()
    for place in (long, tmp_path / "missing"):
        monkeypatch.setenv("TMPDIR", str(place))
        monkeypatch.setattr("tempfile.tempdir", str(long))
        assert connection.temporary() == "/tmp/ray"


def test_ray_needs_no_home_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    assert connection.token() == {}, "Ray makes it"
    monkeypatch.setattr(os, "access", lambda *_: False)
    first, second = connection.token(), connection.token()
    assert first.keys() == {"RAY_AUTH_TOKEN"} and first != second
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert connection.token() == {}


# ---- ports


def test_a_busy_port_is_one_line_before_anything_is_made(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        found = console.aotsearch("ui", str(tmp_path), "--port", str(port))
    assert found.returncode == 2 and f"port {port} of 127.0.0.1: Address already in use; name another" in one_line(found.stderr)


@pytest.mark.parametrize(
    ("answer", "ray"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", False), (b"", False), (b"\0\0\6\4\0\0\0\0\0\0\3\0\0\0\x64", True)]
)
def test_another_service_at_the_address_is_told_from_ray_at_once(answer: bytes, ray: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:

        def serve() -> None:
            with service.accept()[0] as asked:
                asked.recv(100)
                asked.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        refused = contextlib.nullcontext() if ray else pytest.raises(RunError, match="does not speak as Ray does")
        with refused:
            connection.required_answer(f"127.0.0.1:{service.getsockname()[1]}")


def test_an_address_where_nothing_answers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unheard:  # bound, and nobody listens
        unheard.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{unheard.getsockname()[1]}"
        for address in (place, f"ray://{place}"):
            with pytest.raises(RunError, match=rf"no Ray cluster answers at {address}: Connection refused; .*--address"):
                connection.required_answer(address)
        unheard.listen()
        monkeypatch.setattr(connection, "PATIENCE", 0.1)
        with pytest.raises(RunError, match=f"no Ray cluster answers at {place}: timed out"):
            connection.required_answer(place)
    connection.required_answer("auto")
    for address in ("nowhere", "127.0.0.1:port", "127.0.0.1:99999"):
        with pytest.raises(InputError, match="--address takes auto, HOST:PORT or ray://HOST:PORT"):
            connection.required_answer(address)


def test_a_ray_that_this_process_is_connected_to_is_used_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from aotsearch.running.cluster import Cluster
    from aotsearch.study.settings import Resources

    done: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "init", lambda **_: done.append("init"))
    monkeypatch.setattr(ray, "shutdown", lambda: done.append("shutdown"))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 3.0})
    cluster = Cluster(None, None, Resources())
    assert (cluster.workers, cluster.address) == (3, "auto")
    cluster.close()
    assert done == []


def test_processors_are_counted_in_one_place() -> None:
    found = [p.name for p in (ROOT / "aotsearch").rglob("*.py") if "cpu_count" in p.read_text(encoding="utf-8")]
    assert found == ["environment.py"]
