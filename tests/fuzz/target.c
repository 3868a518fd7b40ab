/* libFuzzer's door into check.py.
 *
 * It embeds CPython so that the instrumented extensions are tested as they are shipped. The
 * properties are in check.py; what is watched here is that it does not raise. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdio.h>
#include <stdlib.h>

static PyObject *check; /* owned, for the life of the process */

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    Py_Initialize();
    PyObject *module = PyImport_ImportModule("check");
    check = module ? PyObject_GetAttrString(module, "check") : NULL;
    if (check == NULL) {
        PyErr_Print();
        exit(1);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    PyObject *result = PyObject_CallFunction(check, "y#", (const char *)data, (Py_ssize_t)size);
    if (result == NULL) {
        PyErr_Print();
        fflush(stderr);
        abort();
    }
    Py_DECREF(result);
    return 0;
}
