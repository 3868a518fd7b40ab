# Coroutines of request handlers, run without asyncio.Task: see runner.pxd for the contract.
#
# A task that ended in its first step is used again for the next request, but only if nobody
# can tell: no reference, no weak reference, no attribute, no change was left behind. Within
# a batch it even stays the current task between two such requests, and its context is the
# batch's for as long as it is clean: entering and leaving both costs as much as the handler.

import asyncio

cimport cython
from cpython.object cimport PyObject, PyObject_Size
from cpython.ref cimport Py_REFCNT, Py_XDECREF

from fastserve._speedups.stepping cimport (
    FS_HAS_EAGER, FS_REFUSED, FS_TRIED, PYGEN_NEXT, PYGEN_RETURN, PyContext_Copy,
    PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit, PyCoro_CheckExact, fs_enter_task,
    fs_has_attachments, fs_leave_task, fs_send, fs_step, fs_tell)
from fastserve._speedups.task cimport RAISED, RETURNED, SUSPENDED, Outcome, RequestTask, TaskOwner

# Keep the functions, never the dict behind them: 3.14 moved the current task into the
# thread state.
cdef object _enter_task = asyncio._enter_task
cdef object _leave_task = asyncio._leave_task
fs_enter_task = <PyObject*>_enter_task
fs_leave_task = <PyObject*>_leave_task

cdef object _is_coroutine = asyncio.iscoroutine
cdef object CancelledError = asyncio.CancelledError

cdef enum Way:
    UNDECIDED = 0
    DIRECT = 1
    ASYNCIO = 2
    EAGER = 3


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
