# Coroutines of request handlers, run without asyncio.Task.
#
# start() steps a coroutine at once. If it returns or raises in that first step, that is
# the whole story and no task was ever scheduled. If it suspends, its RequestTask goes on
# from loop callbacks, and `owner.task_done(task)` is called exactly once when it ends.
#
# The runner knows nothing of HTTP.

cdef class TaskOwner:
    # Told once, from a loop callback and outside of any task, that its task ended.
    cdef int task_done(self, object task) except -1

cdef class Runner:
    cdef readonly object loop

    # Step `coroutine` in a context of its own, as the current task. Returns its result, or
    # raises its exception, with suspended[0] = 0; or returns its task with suspended[0] = 1:
    # the caller then sets the owner by adopt(). Must not be called inside another task.
    cdef object start(self, object coroutine, bint* suspended)

    # Who is told when a suspended task ends.
    cdef int adopt(self, object task, TaskOwner owner) except -1
