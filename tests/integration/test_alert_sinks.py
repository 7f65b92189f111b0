"""Alerts on their way out: a real receiver, and real programs."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from recovery.alerts.command import CommandSink
from recovery.alerts.sinks import NotSentError, sinks_of
from recovery.alerts.webhook import WebhookSink
from tests.alert_receiver import OTHER_SECRET, SECRET, Receiver
from tests.worker_processes import until
from workers.settings import Settings

BODY = json.dumps({"type": "amends.saga_parked", "data": {"key": "größe-1"}}, ensure_ascii=False)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as serving:
        yield serving


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- webhook ---------------------------------------------------------------------------------------


def test_a_receiver_believes_what_is_signed_with_its_secret(receiver: Receiver) -> None:
    alert_id = uuid4()
    WebhookSink(receiver.url, [SECRET]).send(alert_id, BODY)
    [call] = receiver.calls
    assert call.is_genuine
    assert (call.id, call.data["key"]) == (str(alert_id), "größe-1")


def test_a_receiver_does_not_believe_another_secret(receiver: Receiver) -> None:
    WebhookSink(receiver.url, [OTHER_SECRET]).send(uuid4(), BODY)
    assert not receiver.calls[0].is_genuine


def test_while_a_secret_is_replaced_both_are_good(receiver: Receiver) -> None:
    WebhookSink(receiver.url, [OTHER_SECRET, SECRET]).send(uuid4(), BODY)
    assert receiver.calls[0].is_genuine


@pytest.mark.parametrize("status", [301, 307, 400, 404, 410, 429, 500, 503])
def test_only_a_2xx_means_that_it_was_taken(receiver: Receiver, status: int) -> None:
    receiver.status = status
    with pytest.raises(NotSentError, match=str(status)):
        WebhookSink(receiver.url, [SECRET]).send(uuid4(), BODY)
    assert [each.path for each in receiver.calls] == ["/alerts"]  # no redirect is followed


def test_a_receiver_that_is_down_has_not_taken_it() -> None:
    with pytest.raises(NotSentError, match="ConnectError"):
        WebhookSink(f"http://127.0.0.1:{free_port()}/", [SECRET]).send(uuid4(), BODY)


def test_a_receiver_that_hangs_has_not_taken_it(receiver: Receiver) -> None:
    receiver.may_answer.clear()
    began = time.monotonic()
    with pytest.raises(NotSentError, match="ReadTimeout"):
        WebhookSink(receiver.url, [SECRET], answer_seconds=0.3).send(uuid4(), BODY)
    assert time.monotonic() - began < 9


def test_no_proxy_of_the_environment_sees_an_alert(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        WebhookSink(receiver.url, [SECRET]).send(uuid4(), BODY)
    assert (len(receiver.calls), len(proxy.calls)) == (1, 0)


def test_what_goes_wrong_tells_no_secret() -> None:
    url = f"http://user:hunter2@127.0.0.1:{free_port()}/token-hunter2"
    with pytest.raises(NotSentError) as failed:
        WebhookSink(url, [SECRET]).send(uuid4(), BODY)
    assert "hunter2" not in str(failed.value)


# -- command ---------------------------------------------------------------------------------------


def python(program: str, *, timeout_seconds: float = 20.0) -> CommandSink:
    return CommandSink([sys.executable, "-c", program], timeout_seconds=timeout_seconds)


def test_a_program_reads_the_alert(tmp_path: Path) -> None:
    place = tmp_path / "alert.json"
    python(f"import sys; open({str(place)!r}, 'wb').write(sys.stdin.buffer.read())").send(
        uuid4(), BODY
    )
    assert place.read_text(encoding="utf-8") == BODY


def test_no_shell_sees_the_command(tmp_path: Path) -> None:
    place = tmp_path / "hacked"
    CommandSink(["true", ";", "touch", str(place), f"$(touch {place})"]).send(uuid4(), BODY)
    assert not place.exists()


def test_a_program_that_fails_has_not_taken_it() -> None:
    with pytest.raises(NotSentError, match=r"exited with 3: no such pager"):
        python("import sys; sys.stderr.write('no such\\npager\\n'); sys.exit(3)").send(
            uuid4(), BODY
        )


def test_a_program_that_is_not_there_has_not_taken_it() -> None:
    with pytest.raises(NotSentError, match="No such file"):
        CommandSink(["/nowhere/pager"]).send(uuid4(), BODY)


def test_a_machine_without_room_for_the_alert_has_not_sent_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "read-only"))
    with pytest.raises(NotSentError, match="did not run"):
        CommandSink(["true"]).send(uuid4(), BODY)


def test_a_program_that_never_ends_is_killed_with_its_children(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    parent = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(place)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(NotSentError, match="did not end"):
        python(parent, timeout_seconds=6).send(uuid4(), BODY)
    child = int(place.read_text())
    until(lambda: not _runs(child), what="the end of the child")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_program_that_leaves_a_child_behind_holds_nothing_up() -> None:
    parent = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    )
    began = time.monotonic()
    python(parent).send(uuid4(), BODY)
    assert time.monotonic() - began < 50


# -- the settings' ---------------------------------------------------------------------------------


def test_the_settings_choose_the_sinks() -> None:
    both = Settings.load(
        alert_url="https://pager.example/x", alert_secret=SECRET, alert_command="/bin/page --now"
    )
    assert [type(each) for each in sinks_of(both)] == [WebhookSink, CommandSink]
    assert sinks_of(Settings.load()) == []
