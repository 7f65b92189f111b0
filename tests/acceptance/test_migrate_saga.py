"""A deploy that leaves sagas behind: named before it happens, and moved to the newer version."""

from __future__ import annotations

import json

import pytest

from orchestrator.state import State
from recovery.cli.failures import ExitCode
from tests.acceptance.moves import MOVE
from tests.acceptance.moves_newer import NEWER
from tests.acceptance.test_operator import rests
from tests.acceptance.typed import amends, answers
from tests.deployment import Deployment
from tests.outside_world import World

OLD, BOTH, NEW = (f"tests.acceptance.{each}" for each in ("moves", "moves_both", "moves_newer"))
WHY = ("--reason", "version 1 posts to a closed office", "--actor", "ada")


@pytest.mark.timeout(150)
def test_two_builds_hand_their_sagas_over(deployment: Deployment, world: World) -> None:
    deployment.definitions += [MOVE, NEWER]
    world.says("decline", "post")
    old_build = deployment.start_worker(sagas=OLD)
    ids = [deployment.client.start(MOVE, {"number": n}, key=f"move-{n}").id for n in range(3)]
    assert [rests(deployment, each) for each in ids] == [State.STUCK] * 3

    # The new build is checked before it replaces the old one: it would leave three behind.
    assert amends(deployment, "check-deploy", sagas=OLD).returncode == 0
    assert amends(deployment, "check-deploy", sagas=BOTH).returncode == 0
    refused = amends(deployment, "check-deploy", "--json", sagas=NEW)
    assert refused.returncode == ExitCode.LEFT_BEHIND
    [left] = [json.loads(line) for line in refused.stdout.splitlines()]
    assert (left["saga"], left["version"], left["count"], left["parked"]) == ("move", 1, 3, 3)

    # A build with both versions moves them; they stay parked, and the old build lets them alone.
    [moved] = answers(deployment, "migrate-saga", "move-0", "--to", "2", *WHY, sagas=BOTH)
    assert (moved["state"], moved["version"]) == ("stuck", 1)
    many = ("migrate-saga", "--all", "--saga", "move", "--from", "1", "--to", "2", "--yes")
    assert len(answers(deployment, *many, *WHY, sagas=BOTH)) == 2
    assert amends(deployment, "check-deploy", sagas=NEW).returncode == 0
    assert amends(deployment, "retry", "move-0", *WHY, sagas=OLD).returncode == ExitCode.NOT_FOUND

    # The new build alone takes over, and they end under its version.
    old_build.terminate()
    old_build.wait_end()
    deployment.start_worker(sagas=NEW)
    retry = ("retry", "--saga", "move", "--yes")
    assert len(answers(deployment, *retry, *WHY, sagas=NEW)) == 3

    assert [rests(deployment, each) for each in ids] == [State.COMPLETED] * 3
    assert deployment.violations({State.COMPLETED: 3}) == []
    steps = [sorted(deployment.client.results(each)) for each in ids]
    assert steps == [["box", "drive", "mail", "thank"]] * 3
    assert {each["attributes"]["number"] for each in answers(deployment, "list", sagas=NEW)} == {77}
    standing = [each.step for each in world.deeds() if each.stands]
    assert sorted(standing) == sorted(["pack", "drive", "mail", "thank"] * 3)


def test_an_undo_that_failed_under_one_version_ends_under_the_next(
    deployment: Deployment, world: World
) -> None:
    deployment.definitions += [MOVE, NEWER]
    world.says("decline", "drive")
    world.says("decline", "pack", direction="compensate")
    deployment.start_worker(sagas=BOTH)
    saga_id = deployment.client.start(MOVE, {"number": 1}, key="move-1").id
    assert rests(deployment, saga_id) is State.FAILED_COMPENSATION

    answers(deployment, "migrate-saga", "move-1", "--to", "2", *WHY, sagas=BOTH)
    answers(deployment, "retry", "move-1", *WHY, sagas=BOTH)

    assert rests(deployment, saga_id) is State.COMPENSATED
    [deed] = [each for each in world.deeds() if each.done_at]
    assert (deed.step, deed.stands) == ("pack", False)  # undone under the key that it was done with
    assert deployment.violations({State.COMPENSATED: 1}) == []
