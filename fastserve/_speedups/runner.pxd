# Coroutines of request handlers, run without asyncio.Task.
#
# start() steps a coroutine at once. If it returns or raises in that first step, that is
# the whole story and no task was ever scheduled. If it suspends, its RequestTask goes on
# from loop callbacks, and `owner.task_done(task)` is called exactly once when it ends.
#
# The runner knows nothing of HTTP.
#
# How the poller uses it, once per batch of requests:
#
#     runner.enter()
#     try:
#         for every request:
#             sync handler:   runner.leave_task(); call it; runner.after_sync()
#             async handler:  runner.start(...); if suspended: runner.adopt(...)
#     finally:
#         runner.leave()
#
# task_done() may start the next pipelined request, between an enter() and a leave() of its own.

from fastserve._speedups.task cimport Outcome, RequestTask, TaskOwner

cdef class Runner:
    cdef readonly object loop
    cdef readonly str mode          # as asked for: "direct", "asyncio", "eager"
    cdef readonly str mode_in_force # after the fall-backs; None until the first start()
    cdef int way                    # mode_in_force as a number
    cdef object base                # copy of the context the runner was made in; never dirtied
    cdef object clean               # copy of base that enter() enters
    cdef Py_ssize_t base_size
    cdef readonly bint entered      # between enter() and leave()
    cdef RequestTask spare
    cdef RequestTask current    # is asyncio's current task until leave_task(); or None

    # Step `coroutine` in a context of its own, as the current task. Returns its result, or
    # raises its exception, with suspended[0] = 0; or returns its task with suspended[0] = 1:
    # the caller then sets the owner by adopt(). Must not be called inside another task: that
    # is a RuntimeError and the coroutine is closed.
    cdef object start(self, object coroutine, bint* suspended)

    # The same, but an exception of the coroutine is returned and not raised: cheaper, and
    # no frame of ours gets into its traceback.
    cdef object begin(self, object coroutine, Outcome* outcome)

    # Who is told when a suspended task ends. At most once for a task.
    cdef int adopt(self, object task, TaskOwner owner) except -1

    # How a task of ours, in any mode, ended: its result (RETURNED) or its exception (RAISED).
    cdef object ended(self, object task, Outcome* outcome)

    # Around a batch. Between them the current context is a clean copy of the base context.
    cdef int enter(self) except -1
    cdef int leave(self) except -1
    # Before anything else of the user's than a coroutine runs in a batch: no task is current.
    cdef int leave_task(self) except -1
    # After every sync handler of the batch: what it set in the context is gone.
    cdef int after_sync(self) except -1

    # Decide again whether to fall back to asyncio.Task; cheap enough for once a second.
    cdef int refresh(self) except -1

    cdef object begin_with_asyncio(self, object coroutine, Outcome* outcome)
    cdef object begin_in_batch(self, RequestTask task, Outcome* outcome)
    cdef int renew_context(self) except -1
    cdef object begin_again(self, RequestTask task, object result, object error, Outcome* outcome)
