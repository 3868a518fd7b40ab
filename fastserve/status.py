"""What a supervisor tells operators of itself and its workers."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from fastserve._speedups.scoreboard import AT_CONNECTIONS, AT_IN_FLIGHT, AT_REQUESTS
from fastserve.recycling import rss_bytes
from fastserve.slots import Slot

if TYPE_CHECKING:
    from fastserve.supervisor import Supervisor


def status_of(supervisor: Supervisor) -> dict[str, Any]:
    """All of it, for JSON."""
    now_s = time.monotonic()
    reloading = supervisor.renewal.reloading
    trial = reloading.trial if reloading is not None else None
    found = {
        "ok": True,
        "pid": os.getpid(),
        "state": state_of(supervisor),
        "draining": supervisor.draining,
        "uptime_s": round(now_s - supervisor.born_s, 3),
        "workers": supervisor.wanted,
        "listening": [
            group.listeners[0].where(encrypted=supervisor.config.ssl_certfile is not None)
            for group in supervisor.groups],
        "slots": [_slot(supervisor, slot, now_s) for slot in supervisor.slots],
        "leaving": sorted(child.pid for child in supervisor.leaving),
    }
    if trial is not None:
        found["canary"] = trial.status()
    refusal = supervisor.renewal.refusal
    if refusal is not None:
        found["refused"] = {
            "reason": refusal.reason, "ago_s": round(now_s - refusal.at_s, 3)}
    return found


def state_of(supervisor: Supervisor) -> str:
    """In one word."""
    if supervisor.stop_by_s is not None:
        return "stopping"
    if supervisor.succession.starts or supervisor.succession.waits:
        return "upgrading"
    if supervisor.resting:
        return "resting"
    if supervisor.renewal.reloading is not None:
        return "reloading" if supervisor.renewal.reloading.trial is None else "canary"
    return "draining" if supervisor.draining else "serving"


def summary(supervisor: Supervisor) -> str:
    """In one line, for a service manager."""
    serving = sum(slot.serves() for slot in supervisor.slots)
    text = f"{state_of(supervisor)}: {serving} of {supervisor.wanted} workers"
    refusal = supervisor.renewal.refusal
    return text if refusal is None else f"{text}; the code on disk was refused: {refusal.reason}"


def complete(supervisor: Supervisor) -> bool:
    """Whether every worker that is wanted serves."""
    slots = supervisor.slots[:supervisor.wanted]
    return len(slots) == supervisor.wanted and all(slot.serves() for slot in slots)


def tell(supervisor: Supervisor) -> None:
    """Let the service manager know how it goes, if that is ours to say."""
    notifier = supervisor.deployment.notifier
    notifier.flush()
    if not supervisor.succession.steers:
        return
    stopping = supervisor.stop_by_s is not None
    if stopping or supervisor.resting or any(slot.serves() for slot in supervisor.slots):
        notifier.alive()
    if not stopping:
        notifier.store(supervisor.groups, supervisor.wanted)
        if not notifier.is_ready and complete(supervisor):
            notifier.ready(summary(supervisor))
        elif notifier.is_ready and supervisor.renewal.reloading is None:
            notifier.status(summary(supervisor))


def _slot(supervisor: Supervisor, slot: Slot, now_s: float) -> dict[str, Any]:
    child = slot.child
    found: dict[str, Any] = {
        "slot": slot.index, "state": "missing", "deaths": slot.deaths,
        "restarts": dict(slot.restarts)}
    if child is not None:
        board, block = supervisor.board, child.block
        found |= {
            "state": "starting" if not child.ready else "stalled" if child.stalled else "serving",
            "pid": child.pid,
            "age_s": round(now_s - child.born_s, 3),
            "loop_turned_s_ago": round(supervisor.beats.age_s(child.cell), 3),
            "requests": board.number(block, AT_REQUESTS),
            "connections": board.number(block, AT_CONNECTIONS),
            "in_flight": board.number(block, AT_IN_FLIGHT),
            "rss_bytes": rss_bytes(child.pid),
        }
        if child.doubtful:
            found["doubtful"] = True
    queues = [one.queued() for group in supervisor.groups for one in group.made(slot.index)]
    known = [queue for queue in queues if queue is not None]
    found["queued"] = sum(known) if known else None
    for name, other in (
            ("successor", slot.successor), ("parked", slot.parked), ("covered_by", slot.cover)):
        if other is not None:
            found[name] = other.pid
    if slot.retiring:
        found["state"] = "retiring"
    return found


def lines(answer: dict[str, Any]) -> list[str]:
    """The same for people."""
    state = answer["state"]
    if answer.get("draining") and state != "draining":
        state += ", draining"
    shown = [f"supervisor {answer['pid']}: {state} for {answer['uptime_s']:.0f} s, "
             f"{answer['workers']} workers, {', '.join(answer['listening'])}"]
    shown += [_slot_line(slot) for slot in answer["slots"]]
    if "refused" in answer:
        shown.append(f"the code on disk was refused {answer['refused']['ago_s']:.0f} s ago: "
                     f"{answer['refused']['reason']}")
    if "canary" in answer:
        shown.append(_canary_line(answer["canary"]))
    if answer["leaving"]:
        shown.append(f"leaving: {', '.join(map(str, answer['leaving']))}")
    return shown


def _slot_line(slot: dict[str, Any]) -> str:
    parts = [f"slot {slot['slot']}: {slot['state']}"]
    if "pid" in slot:
        parts.append(f"worker {slot['pid']} for {slot['age_s']:.0f} s")
        parts.append(f"{slot['requests']:,} requests")
        parts.append(f"{slot['connections']:,} connections")
        parts.append(f"{slot['in_flight']:,} in flight")
        if slot["rss_bytes"] is not None:
            parts.append(f"{slot['rss_bytes'] / (1 << 20):,.0f} MiB")
    if slot["queued"]:
        parts.append(f"{slot['queued']:,} queued")
    for name, words in (
            ("successor", "successor"), ("parked", "parked"), ("covered_by", "covered by")):
        if name in slot:
            parts.append(f"{words} {slot[name]}")
    if "doubtful" in slot:
        parts.append("took the code on disk after a canary was refused")
    if slot["deaths"]:
        parts.append(f"{slot['deaths']} deaths")
    if slot["restarts"]:
        reasons = ", ".join(f"{count} for {why}" for why, count in slot["restarts"].items())
        parts.append(f"restarted {reasons}")
    return ", ".join(parts)


def _canary_line(canary: dict[str, Any]) -> str:
    sides = [
        f"{name} {side['requests']:,} answers, {side['errors']:,} of them 5xx, "
        f"median {(side['median_s'] or 0) * 1e3:.3g} ms, p99 {(side['p99_s'] or 0) * 1e3:.3g} ms"
        for name, side in (("new", canary["canary"]), ("old", canary["siblings"]))]
    left = "starting" if canary["left_s"] is None else f"{max(0, canary['left_s']):.0f} s left"
    return f"canary in slots {', '.join(map(str, canary['slots']))}, {left}: {'; '.join(sides)}"
