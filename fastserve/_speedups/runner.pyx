# Coroutines of request handlers, run without asyncio.Task: see runner.pxd for the contract.
#
# The law: to whatever runs inside a handler, a RequestTask is an asyncio.Task. The same
# object is asyncio.current_task() from the first step to the last, because asyncio.timeout()
# and anyio keep it and cancel it later. Each method below follows Lib/asyncio/tasks.py of the
# CPython it runs on; the differences kept on purpose are three:
#
#   - the first step runs at once, inside start(), and all_tasks() shows the task only from
#     its first suspension on;
#   - loop callbacks of the task are scheduled in the runner's base context, and each step
#     enters the request's context by itself, so that task_done() runs outside of it;
#   - default names are Request-N.
#
# A task that ended in its first step is used again for the next request, but only if nobody
# can tell: no reference, no weak reference, no attribute, no change was left behind. Within
# a batch it even stays the current task between two such requests, and its context is the
# batch's for as long as it is clean: entering and leaving both costs as much as the handler.

import asyncio
import itertools
from asyncio import base_tasks as _base_tasks
from asyncio import tasks as _asyncio_tasks
from contextvars import copy_context
from types import GenericAlias

cimport cython
from cpython.object cimport PyObject, PyObject_Size, Py_TYPE
from cpython.ref cimport Py_REFCNT, Py_XDECREF

# What differs between versions of CPython, and what Cython would wrap in its own traceback.
cdef extern from *:
    """
    static PyObject *fs_enter_task, *fs_leave_task;    /* asyncio's, set once at import */

    /* The exception being raised, with its traceback attached. */
    static PyObject *fs_take_exception(void) {
    #if PY_VERSION_HEX >= 0x030C0000
        return PyErr_GetRaisedException();
    #else
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        if (traceback != NULL) {
            PyException_SetTraceback(value, traceback);
            Py_DECREF(traceback);
        }
        Py_XDECREF(type);
        return value;
    #endif
    }

    /* coroutine.throw(error), told as PyIter_Send tells it. */
    static int fs_throw(PyObject *coroutine, PyObject *error, PyObject *name, PyObject **out) {
        PyObject *stop;
        *out = PyObject_CallMethodOneArg(coroutine, name, error);
        if (*out != NULL) return PYGEN_NEXT;
        if (!PyErr_ExceptionMatches(PyExc_StopIteration)) return PYGEN_ERROR;
        stop = fs_take_exception();
        *out = ((PyStopIterationObject *)stop)->value;
        if (*out == NULL) *out = Py_None;
        Py_INCREF(*out);
        Py_DECREF(stop);
        return PYGEN_RETURN;
    }

    /* asyncio's function of (loop, task): 0, or -1 with an exception raised. */
    static int fs_tell(PyObject *function, PyObject *loop, PyObject *task) {
        PyObject *arguments[3] = {NULL, loop, task}, *done;
        done = PyObject_Vectorcall(
            function, arguments + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        if (done == NULL) return -1;
        Py_DECREF(done);
        return 0;
    }

    /* A step in the context and as the task that are current already. */
    static int fs_send(PyObject *coroutine, PyObject **out) {
        int kind = PyIter_Send(coroutine, Py_None, out);
        if (kind == PYGEN_ERROR) *out = fs_take_exception();
        return kind;
    }

    /* One step of `coroutine`, as `task`, in `context`. On PYGEN_ERROR *out is the exception,
       and nothing is being raised. FS_REFUSED is PYGEN_ERROR before the coroutine ran. */
    #define FS_REFUSED 2
    static int fs_step(PyObject *loop, PyObject *task, PyObject *context, PyObject *coroutine,
                       PyObject *error, PyObject *throw_name, PyObject **out) {
        int kind;
        if (PyContext_Enter(context) < 0) {
            *out = fs_take_exception();
            return FS_REFUSED;
        }
        if (fs_tell(fs_enter_task, loop, task) < 0) {
            *out = fs_take_exception();
            if (PyContext_Exit(context) < 0) PyErr_Clear();
            return FS_REFUSED;
        }
        if (error == Py_None) kind = PyIter_Send(coroutine, Py_None, out);
        else kind = fs_throw(coroutine, error, throw_name, out);
        if (kind == PYGEN_ERROR) *out = fs_take_exception();
        if (fs_tell(fs_leave_task, loop, task) < 0) {     /* the handler tampered with the current task */
            Py_XDECREF(*out);
            *out = fs_take_exception();
            kind = PYGEN_ERROR;
        }
        if (PyContext_Exit(context) < 0) {
            Py_XDECREF(*out);
            *out = fs_take_exception();
            kind = PYGEN_ERROR;
        }
        return kind;
    }

    /* Weak references to the object or attributes of a user in it. */
    static int fs_has_attachments(PyObject *object) {
        PyTypeObject *type = Py_TYPE(object);
        PyObject *attributes = *(PyObject **)((char *)object + type->tp_dictoffset);
        return *(PyObject **)((char *)object + type->tp_weaklistoffset) != NULL
            || (attributes != NULL && PyDict_GET_SIZE(attributes) != 0);
    }

    /* Before 3.11 tasks had neither cancelling() nor uncancel(), and libraries ask by hasattr. */
    static int fs_fit_to_version(PyObject *type) {
    #if PY_VERSION_HEX < 0x030B0000
        PyObject *attributes = ((PyTypeObject *)type)->tp_dict;
        if (PyDict_DelItemString(attributes, "cancelling") < 0) return -1;
        if (PyDict_DelItemString(attributes, "uncancel") < 0) return -1;
        PyType_Modified((PyTypeObject *)type);
    #else
        (void)type;
    #endif
        return 0;
    }

    /* Before 3.11 a cancelled task raised a new error, with the handler's as its context. */
    #define FS_NEW_CANCELLED_ERROR (PY_VERSION_HEX < 0x030B0000)
    /* Since 3.13 the last uncancel() also takes back a cancellation not yet delivered. */
    #define FS_UNCANCEL_TAKES_BACK (PY_VERSION_HEX >= 0x030D0000)
    /* base_tasks._task_repr is new in 3.11. */
    #define FS_HAS_TASK_REPR (PY_VERSION_HEX >= 0x030B0000)
    /* The suite was not run on a later CPython: asyncio.Task there. */
    #define FS_TRIED (PY_VERSION_HEX < 0x030E0000)
    #define FS_HAS_EAGER (PY_VERSION_HEX >= 0x030C0000)
    """
    PyObject* fs_enter_task
    PyObject* fs_leave_task
    object fs_take_exception()
    int fs_step(object loop, object task, object context, object coroutine,
                object error, object throw_name, PyObject** out) noexcept
    int fs_tell(PyObject* function, object loop, object task) except -1
    int fs_send(object coroutine, PyObject** out) noexcept
    bint fs_has_attachments(object) noexcept
    int fs_fit_to_version(object type) except -1
    bint FS_NEW_CANCELLED_ERROR, FS_UNCANCEL_TAKES_BACK, FS_HAS_TASK_REPR, FS_TRIED, FS_HAS_EAGER
    int FS_REFUSED

cdef extern from "Python.h":
    int PYGEN_RETURN, PYGEN_ERROR, PYGEN_NEXT
    size_t PY_VECTORCALL_ARGUMENTS_OFFSET
    object PyContext_CopyCurrent()
    object PyContext_Copy(object context)
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    bint PyCoro_CheckExact(object) noexcept
    bint PyGen_Check(object) noexcept
    object PyObject_CallMethodNoArgs(object self, object name)
    PyObject* call_or_null "PyObject_CallMethodNoArgs"(object self, object name) noexcept
    object PyObject_VectorcallMethod(
        object name, PyObject** arguments, size_t count, PyObject* kwnames)

# Keep the functions, never the dict behind them: 3.14 moved the current task into the
# thread state.
cdef object _enter_task = asyncio._enter_task
cdef object _leave_task = asyncio._leave_task
cdef object _register_task = asyncio._register_task
cdef object _unregister_task = asyncio._unregister_task
fs_enter_task = <PyObject*>_enter_task
fs_leave_task = <PyObject*>_leave_task

cdef object _is_coroutine = asyncio.iscoroutine
cdef object CancelledError = asyncio.CancelledError
cdef object InvalidStateError = asyncio.InvalidStateError
cdef object _next_number = itertools.count(1).__next__
cdef tuple _context_keyword = ("context",)

cdef enum State:
    PENDING = 0
    CANCELLED = 1
    FINISHED = 2

cdef enum Way:
    UNDECIDED = 0
    DIRECT = 1
    ASYNCIO = 2
    EAGER = 3


cdef class TaskOwner:
    """Who is told when a suspended task ends; subclassed in Cython."""

    cdef int task_done(self, object task) except -1:
        raise NotImplementedError("a TaskOwner must define task_done")


@cython.final
cdef class CallbackOwner(TaskOwner):
    """A TaskOwner for Python: calls `function(task)`."""

    cdef object function

    def __init__(self, function):
        self.function = function

    cdef int task_done(self, object task) except -1:
        self.function(task)
        return 0


@cython.final
cdef class _Adoption:
    # The done callback that stands for an owner at an asyncio.Task.
    cdef TaskOwner owner

    def __call__(self, task):
        self.owner.task_done(task)


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
        kind = fs_step(self.loop, self, self.context, self.coroutine, error, "throw", &out)
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


@cython.final
cdef class Runner:
    """Runs the coroutines of one loop's request handlers.

    loop:  the event loop
    mode:  "direct"   step at once, with a task object of ours
           "asyncio"  an asyncio.Task for each; the first step comes with the loop's next turn
           "eager"    asyncio's eager tasks (CPython 3.12 and later)

    "direct" and "eager" fall back to "asyncio" while the loop has a task factory or is in
    debug mode, and "direct" on a CPython that the suite was not tried on.

    Contexts of requests are copies of the one that was current when the runner was made.
    """

    def __init__(self, loop, mode="direct"):
        if mode not in ("direct", "asyncio", "eager"):
            raise ValueError(f"mode must be 'direct', 'asyncio' or 'eager', not {mode!r}")
        if mode == "eager" and not FS_HAS_EAGER:
            raise ValueError("mode 'eager' needs CPython 3.12 or later")
        self.loop = loop
        self.mode = mode
        self.base = PyContext_CopyCurrent()
        self.base_size = PyObject_Size(self.base)
        self.clean = PyContext_Copy(self.base)

    cdef int refresh(self) except -1:
        if (self.mode == "asyncio" or self.loop.get_debug()
                or self.loop.get_task_factory() is not None
                or (self.mode == "direct" and not FS_TRIED)):
            self.way = ASYNCIO
            self.mode_in_force = "asyncio"
        else:
            self.way = DIRECT if self.mode == "direct" else EAGER
            self.mode_in_force = self.mode
        return 0

    cdef object start(self, object coroutine, bint* suspended):
        cdef Outcome outcome = RETURNED
        suspended[0] = False
        value = self.begin(coroutine, &outcome)
        if outcome == RAISED:
            raise value
        suspended[0] = outcome == SUSPENDED
        return value

    cdef object begin(self, object coroutine, Outcome* outcome):
        cdef RequestTask task
        cdef PyObject* out = NULL
        cdef int kind
        if self.way != DIRECT:
            if self.way == UNDECIDED:
                self.refresh()
                return self.begin(coroutine, outcome)
            return self.begin_with_asyncio(coroutine, outcome)
        if not PyCoro_CheckExact(coroutine) and not _is_coroutine(coroutine):
            raise TypeError(f"a coroutine was expected, got {coroutine!r}")
        if self.spare is None:
            task = RequestTask.__new__(RequestTask)
            task.loop = self.loop
            task.base = self.base
        else:
            task = self.spare
            self.spare = None
        task.coroutine = coroutine
        if self.entered:
            return self.begin_in_batch(task, outcome)
        task.context = PyContext_CopyCurrent()
        kind = fs_step(self.loop, task, task.context, coroutine, None, "throw", &out)
        value = <object>out
        Py_XDECREF(out)
        if kind == PYGEN_NEXT:
            outcome[0] = SUSPENDED
            task.suspend(value)
            return task
        if kind == FS_REFUSED:
            task.coroutine = None       # nobody will miss this task
            coroutine.close()
            raise value
        if Py_REFCNT(task) != 1 or task.touched or fs_has_attachments(task):
            if kind == PYGEN_RETURN:
                return self.begin_again(task, value, None, outcome)
            return self.begin_again(task, None, value, outcome)
        task.coroutine = None
        task.context = None
        self.spare = task
        outcome[0] = RETURNED if kind == PYGEN_RETURN else RAISED
        return value

    cdef object begin_in_batch(self, RequestTask task, Outcome* outcome):
        # The first step in the context and, mostly, as the task that the batch has entered
        # already. Both are the next request's too, as long as nobody can tell.
        cdef PyObject* out = NULL
        cdef int kind
        task.context = self.clean
        if self.current is not task:
            try:
                fs_tell(fs_enter_task, self.loop, task)
            except BaseException:
                task.coroutine.close()
                task.coroutine = None
                raise
            self.current = task
        kind = fs_send(task.coroutine, &out)
        value = <object>out
        Py_XDECREF(out)
        # References: `task`, `self.current`, asyncio's.
        if kind != PYGEN_NEXT and Py_REFCNT(task) == 3 and not task.touched \
                and not fs_has_attachments(task):
            self.after_sync()
            task.coroutine = None
            task.context = None
            self.spare = task
            outcome[0] = RETURNED if kind == PYGEN_RETURN else RAISED
            return value
        self.leave_task()
        self.renew_context()
        if kind == PYGEN_NEXT:
            outcome[0] = SUSPENDED
            task.suspend(value)
            return task
        if kind == PYGEN_RETURN:
            return self.begin_again(task, value, None, outcome)
        return self.begin_again(task, None, value, outcome)

    cdef int leave_task(self) except -1:
        cdef RequestTask task = self.current
        if task is not None:
            self.current = None
            fs_tell(fs_leave_task, self.loop, task)
        return 0

    cdef int renew_context(self) except -1:
        PyContext_Exit(self.clean)
        self.clean = PyContext_Copy(self.base)
        PyContext_Enter(self.clean)
        return 0

    cdef object begin_again(self, RequestTask task, object result, object error,
                            Outcome* outcome):
        # It ended in the first step, but somebody keeps its task: that must end as well.
        task.finish(result, error)
        return task.ended(outcome)

    cdef object begin_with_asyncio(self, object coroutine, Outcome* outcome):
        # Either way the task copies the current context.
        if self.way == EAGER:
            task = asyncio.Task(coroutine, loop=self.loop, eager_start=True)
        else:
            task = self.loop.create_task(coroutine)
        if task.done():
            return self.ended(task, outcome)
        outcome[0] = SUSPENDED
        return task

    cdef object ended(self, object task, Outcome* outcome):
        if type(task) is RequestTask:
            return (<RequestTask>task).ended(outcome)
        outcome[0] = RAISED
        if task.cancelled():
            try:
                task.result()
            except CancelledError as error:
                return error
        error = task.exception()
        if error is not None:
            return error
        outcome[0] = RETURNED
        return task.result()

    cdef int adopt(self, object task, TaskOwner owner) except -1:
        cdef _Adoption adoption
        if type(task) is RequestTask:
            (<RequestTask>task).owner = owner
            return 0
        adoption = _Adoption.__new__(_Adoption)
        adoption.owner = owner
        task.add_done_callback(adoption, context=self.base)
        return 0

    cdef int enter(self) except -1:
        PyContext_Enter(self.clean)
        self.entered = True
        return 0

    cdef int leave(self) except -1:
        self.entered = False
        try:
            self.leave_task()
        finally:
            PyContext_Exit(self.clean)
        return 0

    cdef int after_sync(self) except -1:
        # With an empty base, what was set and not reset shows as a size. With another, a
        # variable of the base may have got a new value, which no size tells.
        if self.base_size == 0 and PyObject_Size(self.clean) == 0:
            return 0
        return self.renew_context()

    # Doors for Python: the tests, and tools that drive handlers without a wire.

    def run(self, coroutine, on_done=None):
        """Start a coroutine.

        Returns its result or raises its exception if it ended in its first step, else its
        task; `on_done(task)` is then called once when that ends.
        """
        cdef bint suspended = False
        cdef bint nested = self.entered
        if not nested:
            self.enter()
        try:
            value = self.start(coroutine, &suspended)
        finally:
            if not nested:
                self.leave()
        if suspended and on_done is not None:
            self.adopt(value, CallbackOwner(on_done))
        return value

    def outcome(self, coroutine):
        """As run(), but returns ("returned" | "suspended" | "raised", object)."""
        cdef Outcome outcome = RETURNED
        self.enter()
        try:
            value = self.begin(coroutine, &outcome)
        finally:
            self.leave()
        return ("returned", "suspended", "raised")[<int>outcome], value

    def run_sync(self, *functions):
        """Call sync handlers as one batch; returns their results."""
        self.enter()
        try:
            results = []
            for function in functions:
                self.leave_task()
                results.append(function())
                self.after_sync()
            return results
        finally:
            self.leave()

    def decide_mode(self):
        """Look at the loop again; returns the mode now in force."""
        self.refresh()
        return self.mode_in_force
