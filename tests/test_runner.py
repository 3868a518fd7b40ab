"""Handlers' coroutines behave as asyncio.Task runs them, whichever way the runner goes.

Everything here runs in every mode: "asyncio" is the oracle for "direct", and asyncio's own
eager tasks are a second one where they exist. The rules are numbered as in the design.
"""

import asyncio
import contextlib
import contextvars
import gc
import io
import socket
import sys
import traceback
import weakref

import anyio
import pytest
import sniffio
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastserve._speedups.runner import Runner
from fastserve._speedups.task import RequestTask

EAGER = sys.version_info >= (3, 12)
MODES = ["direct", "asyncio"] + ["eager"] * EAGER
IMMEDIATE = ["direct"] + ["eager"] * EAGER
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
DEADLINE_S = 10

var = contextvars.ContextVar("var", default="unset")

since_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in CPython 3.11")


class Handled:
    """One started coroutine: `how` its first step ended, and how it ended at all."""

    def __init__(self):
        self.how = None
        self.task = None
        self.times_done = 0
        self.value = None
        self.error = None
        self.at_done = None

    @property
    def ended(self):
        return self.how in ("returned", "raised") or self.times_done > 0

    def result(self):
        assert self.ended
        if self.error is not None:
            raise self.error
        return self.value


class Harness:
    """A loop and a runner; handlers start from a loop callback, as they do on the wire."""

    def __init__(self, loop, mode, context=None):
        # A worker's context is empty; that of a test is not.
        context = contextvars.Context() if context is None else context
        self.loop = loop
        self.mode = mode
        self.runner = context.run(Runner, loop, mode)
        self.errors = []
        loop.set_exception_handler(lambda _, context: self.errors.append(context))

    def start(self, coroutine):
        handled = Handled()

        def done(task):
            handled.times_done += 1
            handled.at_done = (asyncio.current_task(self.loop), var.get())
            if task.cancelled():
                try:
                    task.result()
                except asyncio.CancelledError as error:
                    handled.error = error.with_traceback(None)  # it holds this frame
            elif task.exception() is not None:
                handled.error = task.exception()
            else:
                handled.value = task.result()

        try:
            value = self.runner.run(coroutine, done)
        except BaseException as error:
            handled.how, handled.error = "raised", error
        else:
            if asyncio.isfuture(value):
                handled.how, handled.task = "suspended", value
            else:
                handled.how, handled.value = "returned", value
        return handled

    def call(self, function):
        """Call a function from a loop callback; what it raises is raised here."""
        box = []

        def callback():
            try:
                box.append((function(), None))
            except BaseException as error:
                box.append((None, error))
            self.loop.stop()

        self.loop.call_soon(callback)
        self.loop.run_forever()
        value, error = box[0]
        if error is not None:
            raise error
        return value

    def turns(self, count=1):
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def until(self, condition):
        def check():
            if condition() or self.loop.time() > deadline:
                self.loop.stop()
            else:
                handle.append(self.loop.call_later(0.0005, check))

        handle = []
        deadline = self.loop.time() + DEADLINE_S
        self.loop.call_soon(check)
        self.loop.run_forever()
        assert condition()

    def serve(self, coroutine):
        """Run one handler to its end."""
        handled = self.call(lambda: self.start(coroutine))
        self.until(lambda: handled.ended)
        return handled

    def suspended(self, coroutine):
        """Start a handler and let it come to its first suspension."""
        handled = self.call(lambda: self.start(coroutine))
        self.turns()
        assert handled.how == "suspended"
        assert not handled.ended
        return handled


@pytest.fixture(params=LOOPS)
def loop(request):
    loop = LOOPS[request.param]()
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(params=MODES)
def server(request, loop):
    server = Harness(loop, request.param)
    yield server
    gc.collect()
    assert server.errors == []


@pytest.fixture(params=IMMEDIATE)
def immediate(request, loop):
    server = Harness(loop, request.param)
    yield server
    gc.collect()
    assert server.errors == []


@pytest.fixture
def direct(loop):
    server = Harness(loop, "direct")
    yield server
    gc.collect()
    assert server.errors == []


async def answer(value="answer"):
    return value


async def fail(error):
    raise error


async def answer_later(value="answer"):
    await asyncio.sleep(0)
    return value


async def forever():
    await asyncio.get_running_loop().create_future()


class Yield:
    """Awaiting it yields `value` to whatever runs the coroutine."""

    def __init__(self, value):
        self.value = value

    def __await__(self):
        return (yield self.value)


# The first step.


def test_a_handler_that_never_awaits_is_over_at_once(immediate):
    """Its result is what start() returns."""
    assert immediate.call(lambda: immediate.runner.outcome(answer())) == ("returned", "answer")


def test_an_exception_of_the_first_step_is_raised_at_once(immediate):
    """It is what start() raises, and what begin() hands over."""
    error = KeyError("x")

    assert immediate.call(lambda: immediate.runner.outcome(fail(error))) == ("raised", error)
    with pytest.raises(KeyError):
        immediate.call(lambda: immediate.runner.run(fail(error)))


def test_the_asyncio_mode_takes_its_first_step_later(loop):
    """There start() always reports a suspended asyncio.Task."""
    server = Harness(loop, "asyncio")

    handled = server.serve(answer())

    assert handled.how == "suspended"
    assert type(handled.task) is asyncio.Task
    assert handled.times_done == 1


@pytest.mark.parametrize("base", [asyncio.SelectorEventLoop, uvloop.Loop])
@pytest.mark.parametrize("mode", IMMEDIATE)
def test_the_first_step_schedules_nothing(base, mode):
    """Neither a callback nor a timer, a future or a task is made for it."""
    counted = []

    def counting(name):
        def method(self, *args, **kwargs):
            counted.append(name)
            return getattr(base, name)(self, *args, **kwargs)

        return method

    names = ["call_soon", "call_soon_threadsafe", "call_later", "call_at", "create_task",
             "create_future"]
    loop = type("Counting", (base,), {name: counting(name) for name in names})()
    loop.set_debug(False)       # -X dev sets it
    server = Harness(loop, mode)

    def handle():
        counted.clear()
        for _ in range(5):
            server.runner.run(answer())
            with contextlib.suppress(ValueError):
                server.runner.run(fail(ValueError()))
        return list(counted), asyncio.all_tasks(loop)

    assert server.call(handle) == ([], set())
    server.call(lambda: server.start(answer_later()))
    assert "call_soon" in counted
    server.turns(3)
    loop.close()


def test_what_is_not_a_coroutine_is_refused(server):
    """It is a TypeError, as from asyncio.Task."""
    with pytest.raises(TypeError, match="a coroutine was expected, got 5"):
        server.call(lambda: server.runner.run(5))


def test_a_task_object_nobody_kept_is_used_again(direct):
    """One object serves one non-suspending request after the other."""

    async def who():
        return id(asyncio.current_task())

    first, second = direct.call(lambda: [direct.runner.run(who()) for _ in range(2)])

    assert first == second


@pytest.mark.parametrize(
    "keep",
    [
        lambda task: task,
        weakref.ref,
        lambda task: task.set_name("x"),
        lambda task: task.get_name(),
        lambda task: task.cancel() and getattr(task, "uncancel", int)(),
        lambda task: setattr(task, "mine", 1),
        lambda task: task.add_done_callback(print) or task.remove_done_callback(print),
    ],
    ids=["reference", "weakref", "set_name", "get_name", "cancel", "attribute", "callback"],
)
def test_a_task_object_that_was_touched_is_not_used_again(direct, keep):
    """Whatever a handler left in or at its task, the next request starts with a new one."""
    kept = []
    tasks = []

    async def first():
        task = asyncio.current_task()
        kept.append(keep(task))
        tasks.append(weakref.getweakrefcount(task))

    async def second():
        task = asyncio.current_task()
        kept.append((task.get_name(), task._must_cancel, task.__dict__, task))

    direct.call(lambda: direct.start(first()))
    direct.call(lambda: direct.start(second()))

    name, must_cancel, attributes, task = kept[1]
    assert name.startswith("Request-")
    assert not must_cancel
    assert attributes == {}
    assert kept[0] is not task
    if isinstance(kept[0], weakref.ref):
        assert kept[0]() is None
    assert task.done()


def test_a_kept_task_ends_with_the_first_step(immediate):
    """done(), result() and the callbacks registered in the first step are as for any task."""
    kept = []
    called = []

    async def handler():
        task = asyncio.current_task()
        var.set("handler's")
        task.add_done_callback(lambda task: called.append((task, var.get())))
        kept.append(task)
        return 5

    assert immediate.serve(handler()).result() == 5
    assert kept[0].done()
    assert kept[0].result() == 5
    assert kept[0].exception() is None
    immediate.turns()
    assert called == [(kept[0], "handler's")]


def test_a_kept_task_holds_the_exception_of_the_first_step(immediate):
    """It was raised to the caller, and so is not logged as never retrieved."""
    kept = []

    async def handler():
        kept.append(asyncio.current_task())
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        immediate.serve(handler()).result()
    assert isinstance(kept.pop().exception(), ValueError)


def test_a_child_can_await_the_task_that_started_it(server):
    """Even though the parent ends in its first step."""
    results = []

    async def child(parent):
        results.append(await parent)

    async def handler():
        loop = asyncio.get_running_loop()
        results.append(loop.create_task(child(asyncio.current_task())))
        return "parent's"

    assert server.serve(handler()).result() == "parent's"
    server.until(lambda: len(results) == 2)
    assert results[1] == "parent's"


# Rule 1: one object, which is a task to all who look.


def test_the_task_is_the_same_in_every_step(server):
    """current_task() before and after suspensions is one object: timeouts keep it."""

    async def handler():
        tasks = [asyncio.current_task()]
        for _ in range(3):
            await asyncio.sleep(0)
            tasks.append(asyncio.current_task())
        return tasks

    tasks = server.serve(handler()).result()

    assert len({id(task) for task in tasks}) == 1


def test_no_task_is_current_between_steps_and_after(server):
    """What runs on the loop meanwhile sees none."""
    handled = server.suspended(forever())
    assert server.call(lambda: asyncio.current_task()) is None
    handled.task.cancel()
    server.until(lambda: handled.ended)
    assert handled.at_done[0] is None


def test_the_task_has_what_asyncio_tasks_have(direct):
    """Every attribute of this CPython's asyncio.Task, private ones that peers read included."""
    handled = direct.suspended(forever())
    task = handled.task

    ours = set(dir(task))
    private = {"_asyncio_future_blocking", "_fut_waiter", "_must_cancel", "_log_traceback",
               "_log_destroy_pending", "_callbacks", "_state", "_coro", "_loop", "_exception",
               "_result", "_cancel_message", "_source_traceback", "_make_cancelled_error"}
    assert {name for name in dir(asyncio.Task) if not name.startswith("_")} <= ours
    assert private <= ours
    assert hasattr(task, "uncancel") == hasattr(asyncio.Task, "uncancel")
    assert asyncio.isfuture(task)
    assert type(task) is RequestTask
    assert RequestTask[int].__origin__ is RequestTask
    with pytest.raises(TypeError):
        RequestTask()
    task.cancel()
    direct.until(lambda: handled.ended)


def test_the_task_answers_as_a_pending_and_as_a_finished_one(server):
    """Hash, weak references, names, loop, context, coroutine, result and exception."""
    coroutine = forever()
    handled = server.suspended(coroutine)
    task = handled.task

    assert task in {task: 1}
    assert weakref.ref(task)() is task
    assert task.get_loop() is server.loop
    assert task.get_coro() is coroutine
    assert task.get_name() == task.get_name()
    task.set_name(7)
    assert task.get_name() == "7"
    assert (task.done(), task.cancelled()) == (False, False)
    assert isinstance(task._fut_waiter, asyncio.Future)
    assert not task._must_cancel
    assert "pending name='7' coro=<forever() running at" in repr(task)
    assert [frame.f_code.co_name for frame in task.get_stack()] == ["forever"]
    out = io.StringIO()
    task.print_stack(file=out)
    assert "forever" in out.getvalue()
    for method in (task.result, task.exception):
        with pytest.raises(asyncio.InvalidStateError):
            method()
    for method in (task.set_result, task.set_exception):
        with pytest.raises(RuntimeError, match="Task does not support set_"):
            method(None)

    task._fut_waiter.set_result(None)
    server.until(lambda: handled.ended)

    assert task.done()
    assert not task.cancelled()
    assert task.result() is None
    assert task.exception() is None
    assert task._fut_waiter is None
    assert not task.cancel()
    assert "finished name='7'" in repr(task)


def test_done_callbacks_are_called_once_each_in_order_with_their_contexts(server):
    """As asyncio's futures do it, and at once when the task is done already."""
    handled = server.suspended(forever())
    calls = []
    context = contextvars.copy_context()
    context.run(var.set, "given")

    def first(task):
        calls.append(("first", task, var.get()))

    def second(task):
        calls.append(("second", task, var.get()))

    handled.task.add_done_callback(first)
    handled.task.add_done_callback(second, context=context)
    handled.task.add_done_callback(first)
    handled.task.add_done_callback(print)
    assert len(handled.task._callbacks) == 4 + (type(handled.task) is not RequestTask)
    assert handled.task.remove_done_callback(first) == 2
    assert handled.task.remove_done_callback(print) == 1
    assert handled.task.remove_done_callback(print) == 0
    handled.task._fut_waiter.set_result(None)
    server.until(lambda: handled.ended)
    server.turns()
    handled.task.add_done_callback(first)
    server.turns()

    assert calls == [("second", handled.task, "given"), ("first", handled.task, "unset")]


def test_a_cancelled_handler_gets_the_message_where_it_awaits(server):
    """cancel(msg) cancels the future awaited; the task ends cancelled."""
    seen = []

    async def handler():
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    handled = server.suspended(handler())
    assert handled.task.cancel("why")
    server.until(lambda: handled.ended)

    assert seen == [("why",)]
    assert handled.task.cancelled()
    assert type(handled.error) is asyncio.CancelledError
    with pytest.raises(asyncio.CancelledError):
        handled.task.exception()


def test_a_swallowed_cancellation_lets_the_handler_go_on(server):
    """Its result stands."""

    async def handler():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(0)
        return "alive"

    handled = server.suspended(handler())
    handled.task.cancel()
    server.until(lambda: handled.ended)

    assert handled.result() == "alive"
    assert not handled.task.cancelled()


@since_3_11
def test_cancellation_requests_are_counted(server):
    """cancelling() counts what cancel() asked for and uncancel() took back."""

    async def handler():
        task = asyncio.current_task()
        counts = [task.cancelling()]
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            counts += [task.cancelling(), task.uncancel(), task.uncancel(), task.uncancel()]
        return counts

    handled = server.suspended(handler())
    handled.task.cancel()
    handled.task.cancel()
    assert "cancelling" in repr(handled.task)
    server.until(lambda: handled.ended)

    assert handled.result() == [0, 2, 1, 0, 0]


def test_a_cancellation_between_a_result_and_its_wake_up_is_delivered(server):
    """The future is done, so the cancellation waits for the step that is scheduled."""
    seen = []

    async def handler():
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    handled = server.suspended(handler())

    def both():
        handled.task._fut_waiter.set_result("lost")
        assert handled.task.cancel("late")
        assert handled.task._must_cancel

    server.call(both)
    server.until(lambda: handled.ended)

    assert seen == [("late",)]
    assert handled.task.cancelled()


def test_a_handler_that_cancels_itself_is_cancelled_at_its_next_await(server):
    """cancel() in the first step reaches the first future awaited."""
    reached = []

    async def handler():
        asyncio.current_task().cancel("myself")
        reached.append(1)
        await asyncio.get_running_loop().create_future()
        reached.append(2)

    handled = server.serve(handler())

    assert reached == [1]
    with pytest.raises(asyncio.CancelledError):
        handled.result()


def test_a_handler_that_cancels_itself_and_returns_is_cancelled(server):
    """The cancellation was pending when the coroutine stopped: its result is dropped."""

    async def handler():
        asyncio.current_task().cancel("myself")
        return "dropped"

    with pytest.raises(asyncio.CancelledError, match="myself"):
        server.serve(handler()).result()


def test_a_cancelled_error_the_handler_raises_itself_cancels_the_task(server):
    """In the first step and later."""

    async def later():
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    for coroutine in (fail(asyncio.CancelledError()), later()):
        with pytest.raises(asyncio.CancelledError):
            server.serve(coroutine).result()


# Rule 2: what people use inside handlers.


@since_3_11
def test_a_timeout_fires_after_the_first_suspension(server):
    """asyncio.timeout() keeps the task of the first step and cancels it later."""

    async def handler():
        try:
            async with asyncio.timeout(0.002) as scope:
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            await asyncio.sleep(0)
            return scope.expired(), asyncio.current_task().cancelling()
        return None

    assert server.serve(handler()).result() == (True, 0)


@since_3_11
def test_a_timeout_already_over_ends_the_first_await(server):
    """asyncio.timeout(-1) expires at the first suspension."""

    async def handler():
        async with asyncio.timeout(-1):
            await asyncio.sleep(1)

    with pytest.raises(TimeoutError):
        server.serve(handler()).result()


@since_3_11
def test_a_timeout_not_reached_changes_nothing(server):
    """Also when nothing is awaited within it."""

    async def handler():
        async with asyncio.timeout(5):
            pass
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        return "in time"

    assert server.serve(handler()).result() == "in time"


def test_wait_for_times_out_and_returns(server):
    """Both of its ends."""

    async def handler():
        first = await asyncio.wait_for(answer_later(), 5)
        try:
            await asyncio.wait_for(forever(), 0.002)
        except asyncio.TimeoutError:
            return first, "timeout"

    assert server.serve(handler()).result() == ("answer", "timeout")


@since_3_11
def test_a_task_group_runs_and_fails_together(server):
    """The parent is cancelled by the group and uncancelled again."""

    async def broken():
        await asyncio.sleep(0)
        raise ValueError("child")

    async def handler():
        async with asyncio.TaskGroup() as group:
            children = [group.create_task(answer_later(i)) for i in range(3)]
        values = [child.result() for child in children]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(broken())
                group.create_task(forever())
                await forever()
        except BaseException as error:
            return values, type(error).__name__, asyncio.current_task().cancelling()

    assert server.serve(handler()).result() == ([0, 1, 2], "ExceptionGroup", 0)


def test_gather_and_shield(server):
    """gather() collects; shield() keeps what it shields from the handler's cancellation."""
    inner = []
    gate = server.loop.create_future()

    async def child():
        await gate
        inner.append("done")

    async def handler():
        values = await asyncio.gather(answer_later(1), answer(2), fail(KeyError()),
                                      return_exceptions=True)
        assert values[:2] == [1, 2]
        assert isinstance(values[2], KeyError)
        await asyncio.shield(child())

    handled = server.suspended(handler())
    server.turns(8)
    handled.task.cancel()
    server.until(lambda: handled.ended)
    assert handled.task.cancelled()

    gate.set_result(None)
    server.until(lambda: inner)


def test_another_task_awaits_gathers_shields_and_times_out_on_ours(server):
    """The task is a future to others, and passes their cancellation on."""
    handled = server.suspended(forever())
    task = handled.task

    async def observer():
        _, pending = await asyncio.wait([task], timeout=0)
        assert pending == {task}
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 0.001)
        assert not task.done()
        task._fut_waiter.set_result(None)
        assert await asyncio.gather(task, asyncio.shield(task)) == [None, None]
        assert await task is None
        assert await asyncio.wait_for(task, 1) is None

    server.loop.run_until_complete(observer())
    assert handled.ended


@pytest.mark.parametrize("how", ["raised", "cancelled"])
def test_another_task_gets_our_exception(server, how):
    """Awaited, gathered or run until complete."""
    handled = server.suspended(forever())
    expected = KeyError if how == "raised" else asyncio.CancelledError

    async def observer():
        if how == "raised":
            handled.task._fut_waiter.set_exception(KeyError("x"))
        else:
            handled.task.cancel()
        (value,) = await asyncio.gather(handled.task, return_exceptions=True)
        assert isinstance(value, expected)
        with pytest.raises(expected):
            await handled.task

    server.loop.run_until_complete(observer())
    with pytest.raises(expected):
        server.loop.run_until_complete(handled.task)


def test_cancelling_another_task_that_awaits_ours_cancels_ours(server):
    """As with tasks that await tasks."""
    handled = server.suspended(forever())

    async def observer():
        await handled.task

    async def main():
        task = asyncio.ensure_future(observer())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    server.loop.run_until_complete(main())
    assert handled.task.cancelled()


def test_anyio_scopes_groups_and_threads(server):
    """It reads _fut_waiter, _must_cancel, _callbacks and get_coro() of its host task."""

    async def child(values):
        await anyio.sleep(0)
        values.append(anyio.get_current_task().name)

    async def handler():
        library = sniffio.current_async_library()
        with anyio.move_on_after(0.002) as scope:
            await anyio.sleep_forever()
        values = []
        async with anyio.create_task_group() as group:
            group.start_soon(child, values)
            group.start_soon(child, values)
        number = await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(answer, 5))
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0):
                await anyio.sleep(1)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await anyio.sleep(0)
            group.cancel_scope.cancel()
            await anyio.sleep(1)
        await anyio.sleep(0)
        return library, scope.cancelled_caught, len(values), number

    assert server.serve(handler()).result() == ("asyncio", True, 2, 5)


def test_sniffio_knows_the_library_in_the_first_step(immediate):
    """No await is needed for it."""

    async def handler():
        return sniffio.current_async_library()

    assert immediate.call(lambda: immediate.runner.run(handler())) == "asyncio"


def test_async_generators_and_coroutines_of_c_extensions(server):
    """A Cython coroutine awaited by a handler, or started itself."""

    async def numbers():
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    async def handler(sock):
        values = [number async for number in numbers()]
        return values, await asyncio.get_running_loop().sock_recv(sock, 10)

    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        for coroutine, expected in (
            (handler(left), ([0, 1, 2], b"hello")),
            (server.loop.sock_recv(left, 10), b"hello"),
        ):
            handled = server.call(lambda coroutine=coroutine: server.start(coroutine))
            server.turns(8)
            right.send(b"hello")
            server.until(lambda handled=handled: handled.ended)
            assert handled.result() == expected


# Rule 3: contexts.


def test_requests_do_not_see_each_others_variables(server):
    """Each has its own copy of the base context, from the first step on."""

    async def handler(later):
        before = var.get()
        var.set("leaked")
        if later:
            await asyncio.sleep(0)
        return before, var.get()

    for later in (False, True, False, True):
        handled = server.serve(handler(later))
        assert handled.result() == ("unset", "leaked")
        if handled.times_done:
            assert handled.at_done == (None, "unset")
    assert var.get() == "unset"


def test_a_request_keeps_its_variables_over_suspensions(server):
    """Also two at a time, in callbacks they schedule and in tasks they start."""
    called = []

    async def child():
        return var.get()

    async def handler(name):
        loop = asyncio.get_running_loop()
        var.set(name)
        values = []
        for _ in range(3):
            await asyncio.sleep(0)
            values.append(var.get())
        loop.call_soon(lambda: called.append(var.get()))
        values.append(await loop.create_task(child()))
        fut = loop.create_future()
        loop.call_later(0.001, fut.set_result, None)
        await fut
        return [*values, var.get()]

    both = server.call(lambda: [server.start(handler(name)) for name in "ab"])
    server.until(lambda: all(handled.ended for handled in both))

    assert [handled.result() for handled in both] == [["a"] * 5, ["b"] * 5]
    assert sorted(called) == ["a", "b"]


def test_the_base_context_is_the_one_the_runner_was_made_in(loop):
    """Application-wide values are seen by all; a request's change of them by itself only."""

    async def handler():
        before = var.get()
        var.set("changed")
        await asyncio.sleep(0)
        return before

    context = contextvars.copy_context()
    context.run(var.set, "application")
    server = Harness(loop, "direct", context)

    assert [server.serve(handler()).result() for _ in range(2)] == ["application"] * 2
    assert server.runner.run_sync(var.get, lambda: var.set("x"), var.get)[::2] == [
        "application", "application"]


def test_the_owner_can_start_the_next_request_in_a_clean_context(server):
    """What a finished request set is not seen by the one started from its task_done()."""
    results = []

    async def handler(value):
        results.append(var.get())
        var.set(value)
        await asyncio.sleep(0)

    def next_one(_):
        server.start(handler("second"))

    server.call(lambda: server.runner.run(handler("first"), next_one))
    server.turns(5)

    assert results == ["unset", "unset"]


def test_get_context_is_the_context_of_the_steps(direct):
    """What the handler set is in there."""

    async def handler():
        var.set("mine")
        await asyncio.get_running_loop().create_future()

    handled = direct.suspended(handler())

    assert handled.task.get_context()[var] == "mine"
    handled.task.cancel()
    direct.until(lambda: handled.ended)


# Rule 4: what a coroutine may yield.


def test_all_tasks_has_it_from_its_first_suspension_to_its_end(server):
    """In direct mode a task that never suspends is not in there."""

    async def handler():
        before = asyncio.current_task() in asyncio.all_tasks()
        await asyncio.sleep(0)
        return before, asyncio.current_task() in asyncio.all_tasks()

    handled = server.serve(handler())
    assert handled.result() == (server.mode != "direct", True)
    assert asyncio.all_tasks(server.loop) == set()

    handled = server.suspended(forever())
    assert asyncio.all_tasks(server.loop) == {handled.task}
    handled.task.cancel()
    server.until(lambda: handled.ended)


def test_a_bare_yield_gives_the_loop_one_turn(server):
    """asyncio.sleep(0) is one."""
    order = []

    async def handler():
        asyncio.get_running_loop().call_soon(order.append, "loop")
        order.append("before")
        await Yield(None)
        order.append("after")

    server.serve(handler())

    assert order == ["before", "loop", "after"]


@pytest.mark.parametrize("when", ["first", "later"])
@pytest.mark.parametrize(
    ("yielded", "message"),
    [
        (lambda _: 5, "Task got bad yield: 5"),
        (lambda _: (x for x in ()), "yield was used instead of yield from for generator in task"),
        (lambda loop: loop.create_future(), "yield was used instead of yield from in task"),
    ],
)
def test_a_bad_yield_is_raised_in_the_handler(server, when, yielded, message):
    """With the message that asyncio gives, and it may be caught there."""

    async def handler():
        if when == "later":
            await asyncio.sleep(0)
        try:
            await Yield(yielded(asyncio.get_running_loop()))
        except RuntimeError as error:
            return str(error)

    assert server.serve(handler()).result().startswith(message)


def test_a_future_of_another_loop_is_refused(server):
    """The message names the task, the future and the mistake."""
    other = asyncio.new_event_loop()
    future = other.create_future()

    async def handler():
        await future

    with pytest.raises(RuntimeError, match=r"got Future .* attached to a different loop"):
        server.serve(handler()).result()
    other.close()


def test_a_handler_cannot_await_itself(server):
    """It would wait for ever."""

    async def handler():
        await asyncio.sleep(0)
        await asyncio.current_task()

    with pytest.raises(RuntimeError, match="Task cannot await on itself"):
        server.serve(handler()).result()


def test_a_future_with_a_mistake_in_it_fails_the_handler(direct):
    """An exception out of the future's own methods is raised where it is awaited."""

    class Broken:
        _asyncio_future_blocking = True

        def get_loop(self):
            return direct.loop

        def add_done_callback(self, *_, **__):
            raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        direct.serve(fail_at(Broken())).result()


async def fail_at(value):
    await Yield(value)


def test_results_and_exceptions_of_futures_reach_the_handler(server):
    """Of futures that are done already, too."""

    async def handler():
        loop = asyncio.get_running_loop()
        values = []
        for error in (None, KeyError("x")):
            for call in (loop.call_soon, lambda function, *args: function(*args)):
                future = loop.create_future()
                if error is None:
                    call(future.set_result, 5)
                else:
                    call(future.set_exception, error)
                try:
                    values.append(await future)
                except KeyError as caught:
                    values.append(caught.args)
        return values

    assert server.serve(handler()).result() == [5, 5, ("x",), ("x",)]


# Rule 5: how it ends.


def test_the_owner_is_told_once(server):
    """After the result is set, outside of the task, and also when nobody waits any more."""

    async def chain():
        await asyncio.sleep(0)
        raise KeyError("x")

    for coroutine in (answer_later(), chain()):
        handled = server.serve(coroutine)
        server.turns(3)
        assert handled.times_done == 1
        assert handled.at_done == (None, "unset")


@pytest.mark.parametrize("mode", MODES)
def test_an_exception_nobody_retrieves_is_logged(loop, mode):
    """As asyncio does when the task is dropped."""
    server = Harness(loop, mode)

    async def handler():
        await asyncio.sleep(0)
        raise KeyError("lost")

    server.call(lambda: server.runner.run(handler()) and None)
    server.turns(4)
    gc.collect()

    (context,) = server.errors
    assert "exception was never retrieved" in context["message"]
    assert isinstance(context["exception"], KeyError)


@pytest.mark.parametrize("mode", MODES)
def test_a_pending_task_that_is_dropped_is_logged(loop, mode):
    """Its coroutine is closed, as asyncio does."""
    server = Harness(loop, mode)
    closed = []

    async def handler():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            closed.append(1)

    server.call(lambda: server.runner.run(handler()) and None)
    server.turns(2)
    gc.collect()

    (context,) = server.errors
    assert context["message"] == "Task was destroyed but it is pending!"
    assert asyncio.isfuture(context["task"])
    context.clear()
    gc.collect()
    assert closed == [1]


def test_an_adopted_task_that_raised_is_not_logged(server):
    """Its owner has the exception."""

    async def handler():
        await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        server.serve(handler()).result()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_the_loop(server, error):
    """It is set on the task too, and the owner is told."""

    async def handler():
        await asyncio.sleep(0)
        raise error

    started = []
    server.loop.call_soon(lambda: started.append(server.start(handler())))
    with pytest.raises(error):
        server.turns(4)
    server.turns(3)

    (handled,) = started
    assert handled.times_done == 1
    assert type(handled.error) is error


def test_an_interrupt_of_the_first_step_is_raised_to_the_caller(direct):
    """As any exception of it."""
    with pytest.raises(KeyboardInterrupt):
        direct.call(lambda: direct.runner.run(fail(KeyboardInterrupt())))


def test_tracebacks_start_in_the_handler(server):
    """No frame of ours is in what a handler's exception carries."""

    async def inner(later):
        if later:
            await asyncio.sleep(0)
        raise KeyError("x")

    async def handler(later):
        await inner(later)

    def names(error):
        return [frame.name for frame in traceback.extract_tb(error.__traceback__)]

    if server.mode != "asyncio":
        _, error = server.call(lambda: server.runner.outcome(handler(False)))
        assert names(error) == ["handler", "inner"]
    tasks = []
    server.call(lambda: tasks.append(server.runner.run(handler(True))))
    server.turns(4)
    assert names(tasks[0].exception()) == ["handler", "inner"]


def test_an_owner_that_raises_does_not_hurt_the_task(loop):
    """The loop logs it; the task is done."""
    server = Harness(loop, "direct")

    def on_done(task):
        raise ValueError("owner's")

    task = server.call(lambda: server.runner.run(answer_later(5), on_done))
    server.turns(3)

    assert task.result() == 5
    assert isinstance(server.errors[0]["exception"], ValueError)


# Rule 6: no task inside of another's step.


def test_a_task_cannot_be_started_inside_of_another(direct):
    """It is a RuntimeError on every CPython, the coroutine is closed, both can go on."""

    async def handler():
        coroutine = answer()
        with pytest.raises(RuntimeError, match=r"Cannot enter into task .* while another task"):
            direct.runner.run(coroutine)
        assert coroutine.cr_frame is None
        await asyncio.sleep(0)
        return "alive"

    assert direct.serve(handler()).result() == "alive"
    assert direct.serve(answer()).result() == "answer"


# Rule 7: sync handlers.


def test_sync_handlers_see_no_task_and_leave_no_variable(server):
    """Neither to the next sync handler nor to a coroutine after it."""

    def handler():
        before = var.get()
        var.set("leaked")
        return before, asyncio.current_task(server.loop)

    def nested():
        return asyncio.current_task(server.loop), var.get()

    assert server.call(lambda: server.runner.run_sync(handler, handler, nested, handler)) == [
        ("unset", None), ("unset", None), (None, "unset"), ("unset", None)]
    assert server.call(lambda: server.runner.run_sync(var.get)) == ["unset"]
    assert var.get() == "unset"


def test_a_callback_of_a_sync_handler_keeps_its_variables(server):
    """What it scheduled runs with what it set."""
    seen = []

    def handler():
        var.set("handler's")
        server.loop.call_soon(lambda: seen.append(var.get()))

    server.call(lambda: server.runner.run_sync(handler, var.get))
    server.turns()

    assert seen == ["handler's"]


# Rule 8: falling back.


@pytest.mark.parametrize("mode", MODES)
def test_debug_mode_and_task_factories_fall_back_to_asyncio(loop, mode):
    """Found when looked at again, and left when the reason is gone."""
    runner = Runner(loop, mode)
    assert runner.mode == mode
    assert runner.mode_in_force is None
    assert runner.decide_mode() == mode
    loop.set_debug(True)
    assert runner.decide_mode() == "asyncio"
    loop.set_debug(False)
    assert runner.decide_mode() == mode
    loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
    assert runner.decide_mode() == "asyncio"
    loop.set_task_factory(None)
    assert runner.decide_mode() == mode


def test_a_task_factory_makes_the_tasks(loop):
    """The one that is set at the first request."""
    made = []

    def factory(loop, coro, **kwargs):
        made.append(asyncio.Task(coro, loop=loop, **kwargs))
        return made[-1]

    loop.set_task_factory(factory)
    server = Harness(loop, "direct")

    handled = server.serve(answer())

    assert made == [handled.task]
    assert handled.result() == "answer"


def test_unknown_modes_are_refused(loop):
    """The message names the modes there are."""
    with pytest.raises(ValueError, match="must be 'direct', 'asyncio' or 'eager', not 'x'"):
        Runner(loop, "x")
    if not EAGER:
        with pytest.raises(ValueError, match=r"needs CPython 3\.12"):
            Runner(loop, "eager")


# Memory.


def test_nothing_is_left_of_requests(direct):
    """100,000 of them do without the garbage collector."""

    def many(count):
        for number in range(count):
            direct.runner.run(answer(number))

    async def broken():
        raise KeyError

    def failing(count):
        for _ in range(count):
            with contextlib.suppress(KeyError):
                direct.runner.run(broken())

    direct.call(lambda: many(10) or failing(10))
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        direct.call(lambda: many(90_000) or failing(10_000))
        grown = len(gc.get_objects()) - before
    finally:
        gc.enable()
    assert grown < 20


@pytest.mark.parametrize("how", ["returned", "raised", "cancelled", "kept"])
def test_no_cycle_is_left_of_a_request_that_suspended(direct, how):
    """Its task dies with its last reference."""
    alive = []

    async def handler():
        var.set(how)
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, None)
        await future
        if how == "raised":
            raise KeyError("x")
        if how == "cancelled":
            await forever()

    async def keeper():
        asyncio.current_task().add_done_callback(alive.append)

    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            coroutine = keeper() if how == "kept" else handler()
            handled = direct.call(lambda coroutine=coroutine: direct.start(coroutine))
            direct.turns(2)
            if how == "cancelled":
                handled.task.cancel()
                direct.turns(2)
            assert handled.ended
            if how == "kept":
                task = weakref.ref(alive.pop())
            else:
                task = weakref.ref(handled.task)
                handled.task = handled.error = None
            assert task() is None
    finally:
        gc.enable()


def test_a_runner_leaves_with_its_spare(loop):
    """It is not in a cycle with it."""
    server = Harness(loop, "direct")
    server.call(lambda: server.runner.run(answer()))
    before = sys.getrefcount(loop)
    gc.disable()
    try:
        server.runner = None
        assert sys.getrefcount(loop) < before
    finally:
        gc.enable()
    assert server.errors == []


# The oracle, at random.


class Script:
    """A handler and its surroundings, made from a list of steps; what happens is the log."""

    def __init__(self, loop, mode):
        self.server = Harness(loop, mode)
        self.log = []
        self.futures = []

    async def handler(self, steps):
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        for number, (step, swallow) in enumerate(steps):
            self.log.append((number, step, var.get(), getattr(task, "cancelling", int)()))
            var.set(number)
            try:
                if step == "future":
                    self.futures.append(loop.create_future())
                    self.log.append(await self.futures[-1])
                elif step == "shield":
                    self.futures.append(loop.create_future())
                    self.log.append(await asyncio.shield(self.futures[-1]))
                elif step == "child":
                    self.log.append(await loop.create_task(answer_later()))
                elif step == "turn":
                    await asyncio.sleep(0)
                elif step == "cancel":
                    task.cancel(number)
                elif step == "uncancel":
                    getattr(task, "uncancel", int)()
                elif step == "bad":
                    await Yield(number)
                elif step == "raise":
                    raise KeyError(number)
                elif step == "return":
                    return number
            except BaseException as error:
                self.log.append((type(error), error.args))
                if not swallow:
                    raise
            assert asyncio.current_task() is task
        return "end"

    def settle(self):
        # The modes differ in when the first step is taken, so events come at rest only.
        self.server.turns(40)

    def play(self, steps, events):
        handled = self.server.call(lambda: self.server.start(self.handler(steps)))
        self.settle()
        for event in events:
            if handled.ended:
                break
            future = next((f for f in self.futures if not f.done()), None)
            self.log.append(event)
            if event in ("resolve", "both") and future is not None:
                self.server.call(lambda future=future: future.set_result("value"))
            if event == "fail" and future is not None:
                self.server.call(lambda future=future: future.set_exception(OSError("x")))
            if event in ("cancel", "both"):
                self.log.append(self.server.call(lambda: handled.task.cancel("event")))
            self.settle()
        self.log.append(("ended", handled.ended))
        if not handled.ended:
            for _ in range(len(steps) + 1):
                handled.task.cancel()
                self.settle()
        self.log.append((handled.ended, handled.value, type(handled.error),
                         getattr(handled.error, "args", None)))
        for future in self.futures:
            future.cancel()
        return self.log, self.server.errors


@settings(max_examples=200, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(
        st.sampled_from(["future", "future", "shield", "child", "turn", "cancel", "uncancel",
                         "bad", "raise", "return"]),
        st.booleans()), max_size=8),
    events=st.lists(st.sampled_from(["resolve", "fail", "cancel", "both"]), max_size=6),
)
def test_any_handler_goes_as_with_asyncio(loop, steps, events):
    """Awaits, cancellations and errors in any order give the same log in every mode."""
    logs = [Script(loop, mode).play(steps, events) for mode in MODES]

    assert all(log == logs[0] for log in logs)
    assert logs[0][1] == []
