# A request's handler as asyncio's current task: see task.pxd for the contract.
#
# The law: to whatever runs inside a handler, a RequestTask is an asyncio.Task. The same
# object is asyncio.current_task() from the first step to the last, because asyncio.timeout()
# and anyio keep it and cancel it later. Each method below follows Lib/asyncio/tasks.py of the
# CPython it runs on; the differences kept on purpose are three:
#
#   - the first step runs at once, in the runner, and all_tasks() shows the task only from
#     its first suspension on;
#   - loop callbacks of the task are scheduled in the runner's base context, and each step
#     enters the request's context by itself, so that task_done() runs outside of it;
#   - default names are Request-N.

import asyncio
import itertools
from asyncio import base_tasks as _base_tasks
from asyncio import tasks as _asyncio_tasks
from contextvars import copy_context
from types import GenericAlias

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF

from fastserve._speedups.stepping cimport (
    FS_HAS_TASK_REPR, FS_NEW_CANCELLED_ERROR, FS_REFUSED, FS_UNCANCEL_TAKES_BACK, PYGEN_NEXT,
    PYGEN_RETURN, PY_VECTORCALL_ARGUMENTS_OFFSET, PyGen_Check, PyObject_VectorcallMethod,
    call_or_null, fs_enter_task, fs_fit_to_version, fs_leave_task, fs_step, fs_take_exception)

# Keep the functions, never the dict behind them: 3.14 moved the current task into the
# thread state.
cdef object _enter_task = asyncio._enter_task
cdef object _leave_task = asyncio._leave_task
cdef object _register_task = asyncio._register_task
cdef object _unregister_task = asyncio._unregister_task
fs_enter_task = <PyObject*>_enter_task
fs_leave_task = <PyObject*>_leave_task

cdef object CancelledError = asyncio.CancelledError
cdef object InvalidStateError = asyncio.InvalidStateError
cdef object _next_number = itertools.count(1).__next__
cdef tuple _context_keyword = ("context",)

cdef enum State:
    PENDING = 0
    CANCELLED = 1
    FINISHED = 2


cdef class TaskOwner:
    """Who is told when a suspended task ends; subclassed in Cython."""

    cdef int task_done(self, object task) except -1:
        raise NotImplementedError("a TaskOwner must define task_done")

    cdef str purpose(self):
        return ""

    cdef int task_holds(self, bint holds) except -1:
        return 0


cdef inline int call_in_context(
        object target, object method, object function, PyObject* argument,
        object context) except -1:
    # target.method(function[, argument], context=context)
    cdef PyObject* arguments[4]
    cdef size_t count = 2
    arguments[0] = <PyObject*>target
    arguments[1] = <PyObject*>function
    if argument != NULL:
        arguments[2] = argument
        count = 3
    arguments[count] = <PyObject*>context
    PyObject_VectorcallMethod(
        method, arguments, count | PY_VECTORCALL_ARGUMENTS_OFFSET, <PyObject*>_context_keyword)
    return 0


@cython.final
cdef class RequestTask:
    """The task of one request: asyncio.current_task() in every step of its handler.

    Behaves as the asyncio.Task of this CPython; made by a Runner only.
    """

    def __cinit__(self):
        self.log_destroyed = True

    def __init__(self):
        raise TypeError("a RequestTask is made by its Runner")

    def __del__(self):
        if self.loop is None:
            return
        if self.state == PENDING:
            # The coroutine is None in a spare task.
            if self.log_destroyed and self.coroutine is not None:
                self.loop.call_exception_handler(
                    {"task": self, "message": "Task was destroyed but it is pending!"})
        elif self.log_traceback:
            self.log_traceback = False
            self.loop.call_exception_handler({
                "message": f"{type(self).__name__} exception was never retrieved",
                "exception": self.exception_value,
                "future": self,
            })

    @classmethod
    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    def __repr__(self):
        if FS_HAS_TASK_REPR:
            return _base_tasks._task_repr(self)
        return f"<{type(self).__name__} {' '.join(_base_tasks._task_repr_info(self))}>"

    # What asyncio and its peers read and set on tasks.

    @property
    def _asyncio_future_blocking(self):
        return bool(self.blocking)

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, bint value):
        self.touched = True
        self.blocking = value

    @property
    def _log_traceback(self):
        return bool(self.log_traceback)

    @_log_traceback.setter
    def _log_traceback(self, bint value):
        if value:
            raise ValueError("_log_traceback can only be set to False")
        self.log_traceback = False

    @property
    def _log_destroy_pending(self):
        return bool(self.log_destroyed)

    @_log_destroy_pending.setter
    def _log_destroy_pending(self, bint value):
        self.touched = True
        self.log_destroyed = value

    @property
    def _fut_waiter(self):
        return self.waiter

    @property
    def _must_cancel(self):
        return bool(self.must_cancel)

    @property
    def _num_cancels_requested(self):
        return self.cancel_requests

    @property
    def _cancel_message(self):
        return self.cancel_message

    @_cancel_message.setter
    def _cancel_message(self, value):
        self.touched = True
        self.cancel_message = value

    @property
    def _state(self):
        return "PENDING" if self.state == PENDING else (
            "CANCELLED" if self.state == CANCELLED else "FINISHED")

    @property
    def _callbacks(self):
        return list(self.callbacks) if self.callbacks else None

    @property
    def _loop(self):
        return self.loop

    @property
    def _coro(self):
        return self.coroutine

    @property
    def _result(self):
        return self.result_value

    @property
    def _exception(self):
        return self.exception_value

    @property
    def _source_traceback(self):
        return None

    def get_loop(self):
        """The event loop the task runs on."""
        return self.loop

    def get_context(self):
        """The request's own context."""
        self.touched = True
        return self.context

    def get_coro(self):
        """The handler's coroutine."""
        return self.coroutine

    @property
    def purpose(self):
        """The request, with route, id and age; empty in the handler's first step."""
        return "" if self.owner is None else self.owner.purpose()

    def get_name(self):
        """The name that was set, or Request-N."""
        if self.name is None:
            self.touched = True
            self.name = f"Request-{_next_number()}"
        return self.name

    def set_name(self, value):
        """Name the task str(value)."""
        self.touched = True
        self.name = str(value)

    def get_stack(self, *, limit=None):
        """The frames of the handler, as asyncio.Task.get_stack() gives them."""
        return _base_tasks._task_get_stack(self, limit)

    def print_stack(self, *, limit=None, file=None):
        """Print the stack or the traceback of the handler."""
        _base_tasks._task_print_stack(self, limit, file)

    # The future in it.

    def done(self):
        """Whether the handler has returned, raised or was cancelled."""
        return self.state != PENDING

    def cancelled(self):
        """Whether the handler ended by CancelledError."""
        return self.state == CANCELLED

    def result(self):
        """What the handler returned; raises what it raised."""
        if self.state == CANCELLED:
            raise self.make_cancelled_error()
        if self.state == PENDING:
            raise InvalidStateError("Result is not set.")
        self.log_traceback = False
        if self.exception_value is not None:
            raise self.exception_value.with_traceback(self.traceback)
        return self.result_value

    def exception(self):
        """What the handler raised, or None; raises CancelledError if it was cancelled."""
        if self.state == CANCELLED:
            raise self.make_cancelled_error()
        if self.state == PENDING:
            raise InvalidStateError("Exception is not set.")
        self.log_traceback = False
        return self.exception_value

    def set_result(self, result):
        """Refused: a task's result is its coroutine's."""
        raise RuntimeError("Task does not support set_result operation")

    def set_exception(self, exception):
        """Refused: a task's exception is its coroutine's."""
        raise RuntimeError("Task does not support set_exception operation")

    def add_done_callback(self, fn, *, context=None):
        """Have `fn(task)` called from the loop when the task ends."""
        if context is None:
            context = copy_context()
        self.touched = True
        if self.state != PENDING:
            call_in_context(self.loop, "call_soon", fn, <PyObject*>self, context)
        elif self.callbacks is None:
            self.callbacks = [(fn, context)]
        else:
            self.callbacks.append((fn, context))

    def remove_done_callback(self, fn):
        """Take every such callback back; returns how many there were."""
        if self.callbacks is None:
            return 0
        kept = [pair for pair in self.callbacks if pair[0] != fn]
        removed = len(self.callbacks) - len(kept)
        self.callbacks = kept or None
        return removed

    def __await__(self):
        if self.state == PENDING:
            self.touched = True
            self.blocking = True
            yield self
            if self.state == PENDING:
                raise RuntimeError("await wasn't used with future")
        return self.result()

    def __iter__(self):
        return self.__await__()

    def _make_cancelled_error(self):
        return self.make_cancelled_error()

    cdef object make_cancelled_error(self):
        # The error that ended the task is given out once, since each raise grows its traceback.
        ended_by = self.cancelled_error
        self.cancelled_error = None
        if ended_by is not None and not FS_NEW_CANCELLED_ERROR:
            return ended_by
        error = (CancelledError() if self.cancel_message is None
                 else CancelledError(self.cancel_message))
        error.__context__ = ended_by
        return error

    # Cancellation.

    def cancel(self, msg=None):
        """Request that a CancelledError(msg) be raised in the handler."""
        self.log_traceback = False
        if self.state != PENDING:
            return False
        self.touched = True
        self.cancel_requests += 1
        # The waiter is kept: it may be a task that swallows the cancellation.
        if self.waiter is not None and self.waiter.cancel(msg=msg):
            return True
        # The next step is scheduled, or it is the handler itself that asks.
        self.must_cancel = True
        self.cancel_message = msg
        return True

    def cancelling(self):
        """The number of cancellation requests not taken back."""
        return self.cancel_requests

    def uncancel(self):
        """Take one cancellation request back; returns how many remain."""
        if self.cancel_requests > 0:
            self.cancel_requests -= 1
            if self.cancel_requests == 0 and FS_UNCANCEL_TAKES_BACK:
                self.must_cancel = False
        return self.cancel_requests

    # Steps. The first is in Runner.begin().

    cdef int suspend(self, object yielded) except -1:
        # The first suspension: from here on the loop knows the task.
        self.touched = True
        _register_task(self)
        self.wire(yielded)
        return 0

    cdef int wire(self, object yielded) except -1:
        # See to it that a step follows what the coroutine yielded.
        try:
            if yielded is None:
                self.step_soon(None)
                return 0
            blocking = getattr(yielded, "_asyncio_future_blocking", None)
            if blocking is None:
                if PyGen_Check(yielded):
                    raise RuntimeError(
                        f"yield was used instead of yield from for generator in task {self!r} "
                        f"with {yielded!r}")
                raise RuntimeError(f"Task got bad yield: {yielded!r}")
            if yielded.get_loop() is not self.loop:
                raise RuntimeError(
                    f"Task {self!r} got Future {yielded!r} attached to a different loop")
            if not blocking:
                raise RuntimeError(
                    f"yield was used instead of yield from in task {self!r} with {yielded!r}")
            if yielded is self:
                raise RuntimeError(f"Task cannot await on itself: {self!r}")
            yielded._asyncio_future_blocking = False
            call_in_context(yielded, "add_done_callback", self._wakeup, NULL, self.base)
            self.waiter = yielded
        except Exception as error:
            # The handler's mistake, raised where it awaits.
            self.step_soon(error.with_traceback(None))
            return 0
        if self.must_cancel and yielded.cancel(msg=self.cancel_message):
            self.must_cancel = False
        return 0

    cdef int step_soon(self, object error) except -1:
        call_in_context(self.loop, "call_soon", self._step, <PyObject*>error, self.base)
        return 0

    def _step(self, error):
        self.resume(error)

    def _wakeup(self, future):
        cdef PyObject* value = call_or_null(future, "result")
        if value == NULL:
            self.resume(fs_take_exception())
        else:
            Py_XDECREF(value)
            self.resume(None)

    cdef int resume(self, object error) except -1:
        cdef PyObject* out = NULL
        cdef int kind
        if self.state != PENDING:
            raise InvalidStateError(f"_step(): already done: {self!r}, {error!r}")
        if self.must_cancel:
            if not isinstance(error, CancelledError):
                error = self.make_cancelled_error()
            self.must_cancel = False
        self.waiter = None
        if self.owner is not None:
            self.owner.task_holds(True)
        kind = fs_step(self.loop, self, self.context, self.coroutine, error, "throw", &out)
        if self.owner is not None:
            self.owner.task_holds(False)
        error = None    # its traceback would hold the handler's frame
        value = <object>out
        Py_XDECREF(out)
        if kind == PYGEN_NEXT:
            self.wire(value)
        elif kind == PYGEN_RETURN:
            self.end(value, None)
        elif kind == FS_REFUSED:
            raise value
        else:
            self.end(None, value)
            if isinstance(value, (KeyboardInterrupt, SystemExit)):
                raise value
        return 0

    cdef int finish(self, object result, object error) except -1:
        # Settle the state and schedule the callbacks, as asyncio.Task does.
        if error is None:
            if self.must_cancel:        # cancelled right before it returned
                self.must_cancel = False
                self.state = CANCELLED
            else:
                self.state = FINISHED
                self.result_value = result
        elif isinstance(error, CancelledError):
            self.state = CANCELLED
            self.cancelled_error = error
            self.cancel_message = None      # the error has the one that was delivered
        else:
            self.state = FINISHED
            self.exception_value = error
            self.traceback = error.__traceback__
            self.log_traceback = True
        self.touched = True
        if self.callbacks is not None:
            self.schedule_callbacks()
        return 0

    cdef int schedule_callbacks(self) except -1:
        callbacks = self.callbacks
        self.callbacks = None
        for function, context in callbacks:
            call_in_context(self.loop, "call_soon", function, <PyObject*>self, context)
        return 0

    cdef int end(self, object result, object error) except -1:
        # The last step of a task that had suspended.
        cdef TaskOwner owner = self.owner
        self.owner = None
        self.finish(result, error)
        _unregister_task(self)
        if owner is not None:
            owner.task_done(self)
        return 0

    cdef object ended(self, Outcome* outcome):
        if self.state == FINISHED and self.exception_value is None:
            outcome[0] = RETURNED
            return self.result_value
        if self.state == PENDING:
            raise InvalidStateError("the task has not ended")
        outcome[0] = RAISED
        self.log_traceback = False
        if self.state == CANCELLED:
            return self.make_cancelled_error()
        return self.exception_value

fs_fit_to_version(RequestTask)
