"""Every fallback holds what the best mechanism holds, whether it is switched off, missing or refused."""

from __future__ import annotations

import json

import pytest

from support import program

SWITCHES = ("cgroup", "clone3", "pidfd", "close_range", "ptrace")
CALLS = ("clone3", "pidfd_open", "pidfd_send_signal", "close_range")


def facts(*args: str) -> dict[str, str]:
    return json.loads(program("battery.py", *args).stdout.splitlines()[-1])


@pytest.mark.parametrize("disabled", ["", *SWITCHES, ",".join(SWITCHES)])
def test_switched_off(disabled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTJOB_DISABLE", disabled)
    found = facts()
    if "cgroup" in disabled:
        assert found == {**found, "containment": "SUBREAPER"}
        assert "disabled by FASTJOB_DISABLE" in found["reason"]


def test_unknown_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastjob import Job

    monkeypatch.setenv("FASTJOB_DISABLE", "cgroup,magic")
    with pytest.raises(ValueError, match="magic"):
        Job()


@pytest.mark.parametrize("errno", ["ENOSYS", "EPERM"])
@pytest.mark.parametrize("calls", [*([call] for call in CALLS), list(CALLS)], ids="+".join)
def test_refused_by_a_filter(errno: str, calls: list[str]) -> None:
    found = facts(errno, *calls)
    if "clone3" in calls:
        assert found["containment"] == "SUBREAPER"
        assert "clone3" in found["reason"]
