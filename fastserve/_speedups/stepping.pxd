# One step of a coroutine: what CPython offers for it, and what differs between its versions.
#
# All of it is C where Cython would put a traceback of its own around the handler's. The
# functions that tell asyncio which task is current are set by each room that steps, once,
# when it is imported.

from cpython.object cimport PyObject

cdef extern from *:
    """
    static PyObject *fs_enter_task, *fs_leave_task;    /* asyncio's */

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
