"""What `workers.local_servers.processes` sees of a process, by /proc and by ps."""

import os
import shutil
import subprocess
import sys

import psutil
import pytest

from tests.integration.local_server_processes import wait_until
from workers.local_servers import processes


@pytest.mark.skipif(shutil.which("ps") is None, reason="no ps here; macOS always has one")
def test_ps_tells_the_same_as_proc() -> None:
    from_proc = processes.observe(os.getpid())
    from_ps = processes._observe_ps(os.getpid())

    assert from_proc is not None
    assert from_ps is not None
    assert from_ps.pid == from_proc.pid
    assert from_ps.is_zombie is from_proc.is_zombie is False
    assert from_ps.arguments[0] == from_proc.arguments[0]
    assert processes._observe_ps(2**22 + 1) is None


def test_a_zombie_runs_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)

    seen = processes.observe(child.pid)
    by_ps = processes._observe_ps(child.pid) if shutil.which("ps") else seen

    assert seen is not None
    assert by_ps is not None
    assert (seen.is_zombie, by_ps.is_zombie) == (True, True)
    assert not processes.is_same(child.pid, seen.started)
    child.wait()
    assert processes.observe(child.pid) is None
