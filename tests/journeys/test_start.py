"""How the server starts: without a configuration, with a wrong one, on a busy port, as root, installed."""

from __future__ import annotations

import os
import poplib
import pwd
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.journeys.server import Server
from tests.journeys.tools import PATIENCE, eventually, lacking, ours, run

ROOT = Path(__file__).parents[2]
QUICK_PORTS = (2525, 2587, 2465, 2110, 2995)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def start_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``twistd -n mailserver`` where it is expected to end by itself."""
    return run([ours("twistd"), "-n", "--pidfile=", "mailserver", *arguments], cwd=folder)


def check_one_clear_line(done: subprocess.CompletedProcess[str], *named: str) -> None:
    """Exit status 1, no traceback, and exactly one line that names what is wrong."""
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "Traceback" not in output
    telling = [line for line in output.splitlines() if all(word in line for word in named)]
    assert len(telling) == 1, output


# -- the quick start ---------------------------------------------------------------------------


@pytest.fixture
def quick_start(tmp_path: Path) -> Iterator[Path]:
    """The log of a server that was started without a configuration in an empty folder."""
    end = time.monotonic() + 20
    while not all(is_free(port) for port in QUICK_PORTS):
        if time.monotonic() > end:
            lacking("the quick start's ports are in use")
        time.sleep(0.5)
    log = tmp_path / "console.log"
    folder = tmp_path / "fresh"
    folder.mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [ours("twistd"), "-n", "mailserver"],
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        eventually(
            lambda: process.poll() is not None or not any(is_free(port) for port in QUICK_PORTS),
            "the five ports of the quick start",
        )
        assert process.poll() is None, log.read_text()
        yield log
        process.terminate()
        # Twisted lets the signal that it has obeyed end the process.
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
        assert "Server Shut Down" in log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_quick_start_tells_a_password_that_works(quick_start: Path) -> None:
    eventually(lambda: "password" in quick_start.read_text(), "the password in the log")
    text = quick_start.read_text()
    found = re.search(r"account is (\S+) with the password (\S+)", text)
    assert found, text
    login, password = found[1], found[2]
    typed = re.search(r"printf .*", text)
    assert typed, text
    done = run(["bash", "-c", typed[0]])  # as a person pastes it
    assert done.returncode == 0, done.stderr

    def subjects() -> list[bytes]:
        reader = poplib.POP3("127.0.0.1", 2110, timeout=PATIENCE)
        try:
            reader.user(login)
            reader.pass_(password)
            lines = [reader.retr(n + 1)[1] for n in range(reader.stat()[0])]
            return [line for message in lines for line in message if line.startswith(b"Subject:")]
        finally:
            reader.quit()

    eventually(lambda: subjects() == [b"Subject: first"], "the first message")
    assert (quick_start.parent / "fresh" / "maildirs" / "localhost").is_dir()


# -- what stops a start ------------------------------------------------------------------------


def test_a_busy_port_stops_the_start(make_server: Callable[..., Server]) -> None:
    server = make_server("a", "mx.a.test", ["a.test"])
    with socket.socket() as other:
        other.bind((server.host, server.ports["pop3"]))
        other.listen()
        done = run(server.command, cwd=server.folder)
    check_one_clear_line(done, str(server.ports["pop3"]))


def test_a_second_server_on_the_same_state_ends_and_touches_nothing_of_the_first(
    make_server: Callable[..., Server],
) -> None:
    first = make_server("a", "mx.a.test", ["a.test"]).start()
    second = make_server("b", "mx.a.test", ["a.test"], {"": {"state": str(first.folder / "state")}})
    eventually(lambda: _began(first) == 1, "the first record")
    check_one_clear_line(start_in(second.folder), "another server uses the spool", "another `state`")
    time.sleep(0.3)  # three times what a record waits
    assert _began(first) == 1, "the trace of the first has no gap"


def _began(server: Server) -> int:
    return sum(path.read_text().count('"began"') for path in server.folder.glob("state/trace/*.trace"))


def test_a_daemon_that_cannot_start_says_why_in_its_log(make_server: Callable[..., Server]) -> None:
    server = make_server("a", "mx.a.test", ["a.test"])
    log = server.folder / "daemon.log"
    options = [f"--logfile={log}", f"--pidfile={server.folder / 'daemon.pid'}"]
    arguments = ["mailserver", "--config", str(server.configuration)]
    with socket.socket() as other:
        other.bind((server.host, server.ports["pop3"]))
        other.listen()
        done = run([ours("twistd"), *options, *arguments], cwd=server.folder)
    assert done.returncode == 1, done.stdout + done.stderr
    why = f"cannot listen on listen.pop3.*{server.ports['pop3']}.*in use; stop what uses the port"
    eventually(lambda: re.search(why, log.read_text()), "the reason in the log")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hostnam = 'mx.a.test'\n", ("mailserver.toml", "hostnam", "hostname")),
        ("workers = 'two'\n", ("mailserver.toml", "workers")),
        ("[relay]\nretry = ['soon']\n", ("mailserver.toml", "retry", "soon")),
        ("[listen\n", ("mailserver.toml",)),
    ],
)
def test_a_wrong_configuration_stops_the_start(tmp_path: Path, text: str, named: tuple[str, ...]) -> None:
    (tmp_path / "mailserver.toml").write_text(text)
    done = start_in(tmp_path)
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "Traceback" not in output
    assert any(all(word in line for word in named) for line in output.splitlines()), output
    assert not (tmp_path / "state").exists()


def test_a_configuration_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    done = start_in(tmp_path, "--config", "missing.toml")
    check_one_clear_line(done, "missing.toml")


# -- root's rights -----------------------------------------------------------------------------


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that an unprivileged user can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="mailserver-journey-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def low_port() -> int:
    return next(port for port in range(700, 1000) if is_free(port))


def interpreter_for(user: str) -> tuple[list[str], dict[str, str]]:
    """A Python that ``user`` may read, with our packages: root's own may sit in root's home."""
    as_user = ["setpriv", "--reuid", user, "--clear-groups", "--"]
    needed = "import mailserver.tap, argon2.low_level"
    if run([*as_user, sys.executable, "-c", needed]).returncode == 0:
        return [sys.executable], dict(os.environ)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"}
    command = [*as_user, "/usr/bin/python3", "-c", needed]
    if run(command, env=environment).returncode != 0:
        lacking(f"no Python with our packages that {user} may read")
    return ["/usr/bin/python3"], environment


def user_ids(process: int) -> set[int]:
    """The real, effective, saved and file system user of a process (proc(5))."""
    found = re.search(r"^Uid:\s+(.*)$", Path(f"/proc/{process}/status").read_text(), re.M)
    assert found is not None
    return {int(number) for number in found[1].split()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up root's rights")
def test_ports_are_bound_before_rights_are_dropped(public_folder: Path) -> None:
    user = pwd.getpwnam("nobody")
    python, environment = interpreter_for("nobody")
    folder = public_folder / "server"
    server = Server(folder, "mx.a.test", ["a.test"], ports={"smtp": low_port()})
    os.chown(folder, user.pw_uid, user.pw_gid)
    twistd = "from twisted.scripts.twistd import run; run()"
    options = ["-n", "--pidfile=", f"--uid={user.pw_uid}", f"--gid={user.pw_gid}"]
    arguments = ["mailserver", "--config", str(server.configuration)]
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            [*python, "-c", twistd, *options, *arguments],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        for port in server.ports.values():
            eventually(lambda port=port: process.poll() is not None or not is_free(port), f"port {port}")  # type: ignore[misc]
        assert process.poll() is None, server.console()
        # The ports are bound first, so the rights may still be there for a moment.
        eventually(lambda: user_ids(process.pid) == {user.pw_uid}, "root's rights to be dropped")
        server.add_user("ada@a.test")  # root's command on another user's state
        with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
            client.sendmail("x@out.test", "ada@a.test", "Subject: dropped\r\n\r\n")
        eventually(lambda: len(server.raw_mail("ada@a.test")) == 1, "the message")
        made = [path for path in (folder / "state", folder / "maildirs") for path in [path, *path.rglob("*")]]
        assert {path.stat().st_uid for path in made} == {user.pw_uid}
        process.terminate()
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert "Traceback" not in server.console()


# -- installed ---------------------------------------------------------------------------------


def test_an_editable_install_is_found_from_any_folder(tmp_path: Path) -> None:
    done = run([ours("twistd"), "mailserver", "--help"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout


def test_a_wheel_is_found_from_any_folder(tmp_path: Path) -> None:
    """The wheel alone in a new venv; what it depends on is lent by this one."""
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    built = run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)])
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    venv = tmp_path / "venv"
    assert run([sys.executable, "-m", "venv", "--without-pip", str(venv)]).returncode == 0
    python = str(venv / "bin" / "python")
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    installed = run([*pip, "--python", python, "install", "--no-deps", str(wheel)], env=bare)
    assert installed.returncode == 0, installed.stderr
    packages = next(venv.glob("lib/python*/site-packages"))
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")

    where = run([python, "-c", "import mailserver; print(mailserver.__file__)"], cwd=tmp_path, env=bare)
    assert where.stdout.startswith(str(venv)), where.stdout + where.stderr
    twistd = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
    done = run([python, "-c", twistd, "mailserver", "--help"], cwd=tmp_path, env=bare)
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout
