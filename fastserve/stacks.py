"""What a worker is doing, on stderr, when its supervisor asks by SIGUSR2.

The stacks of all threads come from faulthandler, which needs no working interpreter loop. The
tasks come from Python, so only where the loop is held by Python code and not by C.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys

from fastserve.recorder import shown

MOST_TASKS = 100


def tell_when_asked(loop: asyncio.AbstractEventLoop) -> None:
    """From now on SIGUSR2 shows the stacks and tasks, and a crash shows the stacks."""
    faulthandler.enable(all_threads=True)

    def show(number: int, frame: object) -> None:
        sys.stderr.write(tasks(loop))
        sys.stderr.flush()

    signal.signal(signal.SIGUSR2, show)
    faulthandler.register(signal.SIGUSR2, all_threads=True, chain=True)


def tasks(loop: asyncio.AbstractEventLoop) -> str:
    """The tasks of a loop, one a line, with where each waits, and for which request."""
    current = asyncio.current_task(loop)
    found = sorted(asyncio.all_tasks(loop), key=lambda task: task is not current)
    lines = [f"{len(found)} tasks:"]
    for task in found[:MOST_TASKS]:
        stack = task.get_stack(limit=1)
        where = f"{stack[0].f_code.co_filename}:{stack[0].f_lineno}" if stack else "not begun"
        running = " (running)" if task is current else ""
        purpose = getattr(task, "purpose", "")
        text = f"{task.get_name()}{running}: {task.get_coro()!r} at {where}"
        lines.append(f"  {shown(f'{text}, for {purpose}' if purpose else text)}")
    if len(found) > MOST_TASKS:
        lines.append(f"  and {len(found) - MOST_TASKS} more")
    return "\n".join(lines) + "\n"
