# The task of a request's handler, which asyncio takes for one of its own.
#
# The runner makes it and steps it once. If that suspends, it goes on from loop callbacks, and
# `owner.task_done(task)` is called exactly once when it ends: in the runner's base context,
# with no task current.

cdef enum Outcome:
    RETURNED = 0            # the object is the result
    SUSPENDED = 1           # the object is the task: adopt() it
    RAISED = 2              # the object is the exception, its traceback starts in the handler

cdef class TaskOwner:
    # Told once, from a loop callback and outside of any task, that its task ended.
    cdef int task_done(self, object task) except -1
    # What its task is for, in words; a stranger may have written some of them.
    cdef str purpose(self)
    # Its task holds the loop from now on, or no longer.
    cdef int task_holds(self, bint holds) except -1

cdef class RequestTask:
    cdef object __weakref__
    cdef dict __dict__          # users hang things on tasks, as on asyncio's
    cdef object loop
    cdef object base            # the context that loop callbacks of this task are scheduled in
    cdef object context         # the request's own
    cdef object coroutine
    cdef object name            # None until asked for or set
    cdef object waiter          # what the coroutine awaits, or None
    cdef object result_value
    cdef object exception_value
    cdef object traceback       # of exception_value when it was set: result() starts from it
    cdef object cancel_message
    cdef object cancelled_error # the CancelledError that ended the task, given out once
    cdef list callbacks         # [(function, context)], None when there are none
    cdef TaskOwner owner
    cdef int state
    cdef int cancel_requests
    cdef bint must_cancel
    cdef bint blocking          # asyncio's handshake of `yield from future`
    cdef bint log_traceback
    cdef bint log_destroyed
    cdef bint touched           # differs from a new task: not to be used again

    cdef int suspend(self, object yielded) except -1
    cdef int wire(self, object yielded) except -1
    cdef int step_soon(self, object error) except -1
    cdef int resume(self, object error) except -1
    cdef int finish(self, object result, object error) except -1
    cdef int schedule_callbacks(self) except -1
    cdef int end(self, object result, object error) except -1
    cdef object make_cancelled_error(self)
    cdef object ended(self, Outcome* outcome)
